"""The engine's contract: as many answers as texts, in order, one model per call, a text's answer its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from services.score import artifact
from services.score.artifact import Model
from services.score.batching import BUDGET, plan
from services.score.engine import Engine, Runtime, Scored, open_engine
from services.score.lanes import Lanes, Priority
from services.score.tokens import MAX_TOKENS, Tokenizer, Tokens
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS
from services.trainer.anchors import anchors

TEXTS = [
    "Shares of Kestrel Air soar after it wins a big contract",
    "up",
    "Norvik slumps to a loss " * 12,
    "",
    "股价大跌",
    "The annual general meeting will be held on 12 May",
]


def close(one: Sequence[Scored | Rejected], other: Sequence[Scored | Rejected]) -> bool:
    return len(one) == len(other) and all(
        isinstance(a, Scored)
        and isinstance(b, Scored)
        and (a.label, a.truncated) == (b.label, b.truncated)
        and np.allclose(a.probabilities, b.probabilities, atol=1e-5)
        for a, b in zip(one, other, strict=True)
    )


def test_answers_come_in_the_order_of_the_texts(engine: Engine) -> None:
    alone = [engine.score([text])[0] for text in TEXTS]
    assert close(engine.score(TEXTS), alone)
    assert close(engine.score(TEXTS[::-1]), alone[::-1])


def test_a_texts_answer_does_not_depend_on_its_batch(engine: Engine) -> None:
    texts = [anchor.text for anchor in anchors()[:200]]
    together = engine.score(texts)
    assert close(together, [engine.score([text])[0] for text in texts])


def test_no_texts_no_answers(engine: Engine) -> None:
    assert engine.score([]) == []


def test_probabilities_sum_to_one_and_name_the_label(engine: Engine) -> None:
    for scored in engine.score(TEXTS):
        assert isinstance(scored, Scored)
        assert sum(scored.probabilities) == pytest.approx(1)
        assert scored.label == LABELS[int(np.argmax(scored.probabilities))]


def test_a_text_that_breaks_takes_no_other_with_it(engine: Engine) -> None:
    answers = engine.score([TEXTS[0], "half a pair \ud83d", TEXTS[5]])
    assert isinstance(answers[1], Rejected)
    assert answers[1].reason == "tokenizer"
    assert close([answers[0], answers[2]], engine.score([TEXTS[0], TEXTS[5]]))


def test_embed_refuses_what_it_cannot_embed(engine: Engine) -> None:
    with pytest.raises(Rejected, match="tokenizer"):
        engine.embed(["fine", "\ud83d"])
    assert engine.embed(["fine", "also fine"]).dtype == np.float32


@pytest.mark.parametrize(
    ("words", "truncated"), [(MAX_TOKENS - 2, False), (MAX_TOKENS - 1, True), (50_000, True), (0, False)]
)
def test_truncation_is_reported(engine: Engine, words: int, truncated: bool) -> None:
    (scored,) = engine.score(["profit " * words])
    assert isinstance(scored, Scored)
    assert scored.truncated is truncated


def test_what_is_cut_off_does_not_count(engine: Engine) -> None:
    start = "loss " * MAX_TOKENS
    one, other = engine.score([start, start + "profit soars " * 5_000])
    assert close([one], [other])


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(1, 1_500))
def test_every_text_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1


def test_the_encoder_never_sees_more_than_the_budget(engine: Engine, runtime: Runtime) -> None:
    seen: list[int] = []

    class Watched:
        device = "cpu"

        def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            seen.append(ids.size)
            return runtime.lanes.encoder.run(ids, mask)

    texts = [anchor.text for anchor in anchors()[:150]]
    Engine(runtime._replace(lanes=Lanes(Watched(), BUDGET, 2)), engine.model).score(texts)
    assert len(seen) > 1
    assert max(seen) <= BUDGET


def test_a_swap_shares_the_encoder(engine: Engine, stubborn: Model, tmp_path: Path) -> None:
    artifact.save(stubborn, tmp_path)
    swapped = open_engine(tmp_path, share=engine)
    assert swapped.runtime is engine.runtime
    assert swapped.card.version != engine.card.version


def test_a_call_is_answered_by_one_model_while_models_are_swapped(engine: Engine, stubborn: Model) -> None:
    other = Engine(engine.runtime, stubborn)
    held = [engine]
    texts = [anchor.text for anchor in anchors()[:80]]
    expected = [engine.score(texts), other.score(texts)]

    def call(_: int) -> bool:
        answers = held[0].score(texts)
        held[0] = other if held[0] is engine else engine
        return any(close(answers, one) for one in expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(24)))


def test_the_stored_examples_are_answered_as_stored(engine: Engine) -> None:
    engine.warm()
    answers = engine.score([example.text for example in engine.card.examples])
    for example, scored in zip(engine.card.examples, answers, strict=True):
        assert isinstance(scored, Scored)
        assert scored.probabilities == pytest.approx(example.probabilities, abs=engine.card.tolerance)
    assert {scored.label for scored in answers if isinstance(scored, Scored)} == set(LABELS)


def test_a_model_that_does_not_give_its_stored_answers_is_not_served(engine: Engine, stubborn: Model) -> None:
    liar = Model(engine.card, stubborn.head, stubborn.adapter)
    with pytest.raises(Misconfigured, match=r"Norvik.*stored 0\.9\d+/.*now 0\.000"):
        Engine(engine.runtime, liar).warm()


class Counting:
    """An encoder that notes the width of its batches."""

    device = "cpu"

    def __init__(self, runtime: Runtime) -> None:
        self._encoder = runtime.lanes.encoder
        self.widths: list[int] = []

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.widths.append(ids.shape[1])
        return self._encoder.run(ids, mask)


def test_it_is_warmed_by_texts_of_every_length(engine: Engine, runtime: Runtime) -> None:
    counting = Counting(runtime)
    Engine(runtime._replace(lanes=Lanes(counting, BUDGET, 2)), engine.model).warm()
    assert {8, 16, 32, 64, 128, MAX_TOKENS} <= set(counting.widths)
    assert counting.widths.count(MAX_TOKENS) == 2, "one for each lane"


def test_an_encoder_that_fails_on_long_texts_is_not_served(engine: Engine, runtime: Runtime) -> None:
    class Short(Counting):
        def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            assert ids.shape[1] <= 128
            return super().run(ids, mask)

    with pytest.raises(Misconfigured, match="256 tokens"):
        Engine(runtime._replace(lanes=Lanes(Short(runtime), BUDGET, 1)), engine.model).warm()


def test_with_its_last_engine_an_encoder_and_its_lanes_are_freed(engine: Engine, runtime: Runtime) -> None:
    before = set(threading.enumerate())
    other = Engine(runtime._replace(lanes=Lanes(Counting(runtime), BUDGET, 2)), engine.model)
    threads = set(threading.enumerate()) - before
    assert other.score(TEXTS[:1]) and len(threads) == 2
    encoder = weakref.ref(other.runtime.lanes.encoder)
    del other
    for thread in threads:
        thread.join(10)
    assert encoder() is None and not any(thread.is_alive() for thread in threads)


def test_blas_does_not_take_the_lanes_cores(engine: Engine) -> None:
    engine.score(["Copper rallied"])
    threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert threads and set(threads) == {1}


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="auto, cpu or cuda"):
        open_engine(artifact.bundled(), device="tpu", cache=tmp_path)


@pytest.fixture(scope="module")
def windowed(engine: Engine) -> Engine:
    """The same model, reading long texts to their end."""
    tokenizer = Tokenizer(engine.runtime.encoding.base.folder, "windows")
    return Engine(engine.runtime._replace(tokenizer=tokenizer), engine.model)


GOOD_NEWS = "Kestrel Air shares soar to a record high after it wins a big contract and lifts its profit outlook . "
FILLER = "The annual general meeting of the company will be held on 12 May in Budapest . "


def one(engine: Engine, text: str) -> Scored:
    (scored,) = engine.score([text])
    assert isinstance(scored, Scored)
    return scored


def test_windows_see_the_end_of_a_long_text(engine: Engine, windowed: Engine) -> None:
    dull, news = FILLER * 20, FILLER * 20 + GOOD_NEWS * 20
    assert one(engine, news).probabilities == pytest.approx(one(engine, dull).probabilities, abs=1e-5)
    assert one(engine, news).truncated
    assert one(windowed, news).probabilities[2] > one(windowed, dull).probabilities[2] + 0.2
    assert not one(windowed, news).truncated


def test_windows_change_nothing_for_short_texts(engine: Engine, windowed: Engine) -> None:
    assert close(windowed.score(TEXTS), engine.score(TEXTS))
    texts = [TEXTS[0], FILLER * 40, "\ud83d", TEXTS[5]]
    answers = windowed.score(texts)
    assert isinstance(answers[2], Rejected)
    assert close([answers[0], answers[3]], engine.score([TEXTS[0], TEXTS[5]]))
    assert np.array_equal(windowed.embed([FILLER * 40, "up"]).argmax(1), engine.embed([FILLER * 40, "up"]).argmax(1))


def test_a_windows_weight_is_its_tokens(engine: Engine, windowed: Engine) -> None:
    (tokens,) = windowed.runtime.tokenizer([FILLER * 16 + GOOD_NEWS * 3])
    assert isinstance(tokens, Tokens) and len(tokens.more) == 1
    windows = [tokens.ids, *tokens.more]
    assert tokens.ids[-33:-1] == tokens.more[0][1:33]
    features, _ = engine.runtime.lanes.submit(windows, Priority.STREAM).result()
    wanted = np.average(engine.probabilities(features), axis=0, weights=[len(ids) for ids in windows])
    assert one(windowed, FILLER * 16 + GOOD_NEWS * 3).probabilities == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("words", "truncated"), [(16 * 254 - 15 * 32, False), (16 * 254 - 15 * 32 + 1, True)])
def test_of_a_very_long_text_sixteen_windows_are_read(windowed: Engine, words: int, truncated: bool) -> None:
    (tokens,) = windowed.runtime.tokenizer(["profit " * words])
    assert isinstance(tokens, Tokens)
    assert (len(tokens.more), tokens.truncated) == (15, truncated)


def test_where_every_text_fails_each_says_so(runtime: Runtime, engine: Engine) -> None:
    class Broken:
        device = "cpu"

        def run(self, *_: np.ndarray) -> np.ndarray:
            raise RuntimeError("no")

    answers = Engine(runtime._replace(lanes=Lanes(Broken(), BUDGET, 1)), engine.model).score(["one", "two"])
    assert [getattr(answer, "reason", "") for answer in answers] == ["encoder", "encoder"]
