"""`python -m ops.bench`: run benchmarks, show their figures, store them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ops.bench import end_to_end, engine, gate, live, plumbing, promotion, rollback, shadow, training_beside
from ops.bench.common import ROOT, Corpus, buses, console, machine, write

DEMO = ROOT / "services" / "demo" / "stream.jsonl"
NAMES = (
    "engine", "shadow", "training_beside", "end_to_end", "workers", "plumbing", "live", "swap", "steady", "gate",
    "rollback", "promotion",
)  # fmt: skip
ALONE = ("engine", "shadow", "training_beside", "gate", "rollback", "promotion")
"""Not once per bus."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DEMO,
    help="CSV or JSONL of texts; default: the demo's stream",
)
@click.option("--text-field", default="text", show_default=True, help="the field that holds the text")
@click.option("--runs", default=3, show_default=True, help="runs of each; figures are medians")
@click.option("--bus", "only", type=click.Choice(("embedded", "kafka")), help="one bus only")
@click.option("--rate", default=200.0, show_default=True, help="live: texts per second")
@click.option("--seconds", default=60.0, show_default=True, help="live and swap: how long")
def main(
    names: tuple[str, ...], texts: Path, text_field: str, runs: int, only: str | None, rate: float, seconds: float
) -> None:  # fmt: skip
    """Benchmarks of the loop on this machine; without NAMES all of them.

    \b
      engine       the engine against the transformers pipeline and plain ONNX Runtime, and by length of text
      shadow       the champion at full load, with a shadow beside it and without
      training_beside  the champion at full load, with a training run beside it and without
      end_to_end   a file to rows in Postgres, against the bare engine on the same texts
      workers      two score workers with their own partitions, against one
      plumbing     the same with scoring replaced by a constant
      live         accepted → seen on the live stream at a steady rate, with a swap in the middle
      swap         the same at nine tenths of the loop's own rate, in posts of 16 texts
      steady       the same without a swap at seven tenths, ten times as long: latency by the minute, and memory
      gate         500 simulated sequences of challengers each: how many of what gain are promoted
      rollback     500 simulated champions each: after how many labels one that is worse is rolled back
      promotion    from the last of 200 labels to a promoted model in service, head alone and by low rank

    Each writes var/bench/NAME.json. A quiet machine gives figures worth quoting.
    """
    where = machine()
    corpus = Corpus(texts, text_field)
    for name in names or NAMES:
        console.rule(name)
        figures: dict[str, Any] = {"texts_file": texts.name, "runs": runs}
        if name == "engine":
            figures |= engine.run(corpus.texts, runs)
        elif name == "shadow":
            figures |= shadow.run(corpus.texts, runs)
        elif name == "training_beside":
            figures |= training_beside.run(corpus.texts, runs)
        elif name == "gate":
            figures = gate.run()
        elif name == "rollback":
            figures = rollback.run()
        elif name == "promotion":
            figures = promotion.run(runs)
        for bus in () if name in ALONE else (only,) if only else buses():
            if name == "end_to_end":
                figures[bus] = end_to_end.run(corpus, runs, bus)
            elif name == "workers":
                figures[bus] = end_to_end.workers(corpus, runs, bus)
            elif name == "plumbing":
                figures[bus] = plumbing.run(corpus, runs, bus)
            elif name == "steady":
                figures[bus] = live.steady(corpus, bus, 10 * seconds)
            elif name == "swap":
                figures[bus] = live.swap(corpus, runs, bus, seconds)
            else:
                figures[bus] = live.run(corpus.texts, runs, bus, rate, seconds)
        path = write(name, figures, where)
        click.echo(msgspec.json.format(msgspec.json.encode({name: figures}), indent=2))
        console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
