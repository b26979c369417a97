"""The embedded servers, as the supervisor starts them."""

from __future__ import annotations

from pathlib import Path

from services.supervisor.servers import PostgresServer


def test_the_folders_above_its_data_stay_as_they_are(folder: Path) -> None:
    """Started as root, PostgreSQL runs as another user; opening every folder above for it would open them to all."""
    data = folder / "a" / "b" / "data"
    data.parent.mkdir(parents=True)
    for above in (folder / "a", folder / "a" / "b"):
        above.chmod(0o711)
    before = {above: above.stat().st_mode for above in data.parents}
    server = PostgresServer(data, folder / "logs")
    server.start()
    server.stop()
    assert {above: above.stat().st_mode for above in data.parents} == before
