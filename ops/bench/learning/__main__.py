"""`python -m ops.bench.learning`: see `--help`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ops.bench.common import ROOT, console, machine, write
from ops.bench.learning import curves, poison
from ops.bench.learning.streams import streams


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seeds", default=20, show_default=True, help="repetitions of each curve")
@click.option("--desks", default=5, show_default=True, help="seeds of each desk with hostile readers")
def main(data: Path, seeds: int, desks: int) -> None:
    """What corrections bring, on DATA: the folder with the labelled sets of `tickerloop train --recipe bundled`.

    A champion that learned from one set only meets the other. Readers look at what the review queue or chance picks,
    and its challengers are heads, fitted as the trainer fits them. All arms are measured on the same 3,000 texts, which
    nobody labels. Then desks of ten readers, three of them hostile, teach with trust and without. Writes
    var/bench/learning.json.
    """
    where = machine()
    both = streams(data)
    figures: dict[str, Any] = {stream.name: curves.run(stream, seeds) for stream in both} if seeds else {}
    if desks:
        figures["hostile readers"] = poison.run(both[0], desks)
    path = write("learning", figures, where)
    click.echo(msgspec.json.format(msgspec.json.encode(figures), indent=2))
    console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
