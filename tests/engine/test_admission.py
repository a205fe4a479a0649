"""What is reserved for a request is never exceeded by its row, and never more than the memory is reserved."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.engine.admission import Footprint, Ledger
from prefixkv.engine.memory import Memory, memory_limits
from prefixkv.engine.scheduler import Scheduler
from prefixkv.errors import BudgetTooSmallError, OptionError
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS, get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.entry_size import EntrySize
from tests import tiny

GEOMETRY = KVGeometry(layers=4, kv_heads=2, head_dim=16, dtype="float32")


@dataclass(eq=False)
class Asked:
    number: int
    prompt_tokens: int
    footprint: Footprint
    steps: int = 1


def _capacity(budget: str, method: str) -> Capacity:
    return Capacity(GEOMETRY, Budget.parse(budget), get_method(method))


@pytest.mark.exhaustive(keep=6)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["100%", "50%", "20%", "5%", "40KiB", "30tok"])
@pytest.mark.parametrize("length", [9, 200])
def test_a_row_stays_within_its_footprint(method: str, budget: str, length: int) -> None:
    """All buffers, notes and queues of the row, read off their tensors after the prompt and after every step."""
    model, new_tokens = tiny.llama(layers=4), 30
    if METHODS[method].keeps_all and budget not in ("100%", "50%", "20%", "5%"):
        budget = "400KiB"
    footprint = Footprint.of(_capacity(budget, method), length, new_tokens)
    with prefixkv.compress(model, budget, method) as cache:
        for step in range(new_tokens + 1):
            ids = tiny.text(1 if step else length, seed=step)
            model(input_ids=ids, **cache.argument, use_cache=True)
            if step == 0:
                cache.row.reserve(new_tokens)
            held = 0
            for layer in cache.layers:
                tensors = (layer.keys, layer.values, layer.positions, layer.importance, layer.order)
                held += sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)
            assert held <= footprint.running


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("budget", "shares"), [("100%", None), ("20%", None), ("400KiB", None), ("20%", (9, 1, 1, 1))])
def test_the_layers_of_a_device_stay_within_their_part(
    method: str, budget: str, shares: tuple[int, ...] | None
) -> None:
    """One layer here and three there: while the prompt is read, after it, and while the answer grows.

    The layers take very different shares where the method lets them: the first ones' attention is all on few entries.
    """
    model, length, new_tokens, divided = tiny.llama(layers=4), 200, 30, (1, 3)
    for layer, factor in zip(model.model.layers, (0.0, 40.0, 40.0, 40.0), strict=True):
        layer.self_attn.q_proj.weight.data *= factor
    if METHODS[method].keeps_all:
        budget, shares = "100%", None
    fractions = None if shares is None else [share / 12 for share in shares]
    row = CacheRow(GEOMETRY, budget, method, fractions)
    even_share = row.method.even_share if fractions is None else Fraction(0)
    footprint = Footprint.of(row.capacity, length, new_tokens, divided=divided, even_share=even_share)
    assert len(footprint.parts) == 2
    assert footprint.most <= sum(part.most for part in footprint.parts)
    read: list[list[int]] = []

    def held(*names: str) -> list[int]:
        """Bytes of the first layer, and of the others."""
        found = []
        for layers in (row.layers[:1], row.layers[1:]):
            tensors = [getattr(layer, name) for layer in layers for name in names]
            tensors += [part for layer in layers for part in layer.arriving or ()]
            storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
            found.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
        return found

    names = ("keys", "values", "positions", "importance")
    cache = PrefixKVCache.of_rows([row])
    with attention.installed(model), torch.no_grad():
        hooks = [
            layer.register_forward_hook(lambda *_: read.append(held(*names)))  # type: ignore[func-returns-value]
            for layer in model.model.layers
        ]
        model(input_ids=tiny.text(length), **cache.argument, use_cache=True, logits_to_keep=1)
        for hook in hooks:
            hook.remove()
        row.reserve(new_tokens)
        running = [held(*names, "order")]
        for step in range(new_tokens):
            model(input_ids=tiny.text(1, seed=step), **cache.argument, use_cache=True)
            running.append(held(*names, "order"))
    for place, part in enumerate(footprint.parts):
        assert max(each[place] for each in read) <= part.reading
        assert max(each[place] for each in running) <= part.running


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("method", ["h2o", "prefixkv", "guided", "full"])
@pytest.mark.parametrize("budget", ["100%", "50%", "20%", "5%"])
def test_footprints_are_not_much_larger_than_the_budget(method: str, budget: str) -> None:
    """A row at a fifth of the cache reserves about a fifth of what a row that keeps everything does."""
    geometry = KVGeometry(layers=32, kv_heads=8, head_dim=128, dtype="bfloat16")

    def running(budget: str) -> int:
        return Footprint.of(Capacity(geometry, Budget.parse(budget), get_method(method)), 1000, 100).running

    share = 1.0 if METHODS[method].keeps_all else float(Budget.parse(budget).amount)
    # A share counts no positions and importance, which are most of what is beside an entry in the fewest bits.
    fewest = EntrySize.of(geometry, 2, geometry.kv_heads)
    notes = fewest.allocated / fewest.counted if METHODS[method].packs else 1.0
    assert running(budget) <= 1.12 * notes * share * running("100%")


@pytest.mark.exhaustive(keep=9)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", ["100%", "20%", "200KiB"])
def test_reading_holds_no_more_than_is_reserved_for_it(method: str, budget: str) -> None:
    """What waits and what is stored, looked at behind every layer of the prompt."""
    model, length = tiny.llama(layers=8), 600
    if METHODS[method].keeps_all:
        budget = "100%"
    most = 0

    def look(layer: object, args: object, output: object) -> None:
        nonlocal most
        held = [part for layer in cache.row.layers for part in (layer.keys, layer.values, *(layer.arriving or ()))]
        held += [part for layer in cache.row.layers for part in (layer.positions, layer.importance)]
        most = max(
            most, sum({part.data_ptr(): part.untyped_storage().nbytes() for part in held if part is not None}.values())
        )

    with prefixkv.compress(model, budget, method) as cache, torch.no_grad():
        for layer in model.model.layers:
            layer.register_forward_hook(look)
        model(input_ids=tiny.text(length), **cache.argument, use_cache=True, logits_to_keep=1)
    reserved = Footprint.of(cache.row.capacity, length, 1).reading
    assert 0 < most <= reserved
    assert reserved <= 12 * 2 * 2 * 16 * 4 * length * 1.2


def test_what_can_never_fit_is_refused_with_both_sizes() -> None:
    footprint = Footprint.of(_capacity("100%", "h2o"), 1000, 100)
    with pytest.raises(BudgetTooSmallError, match=r"1,000 tokens .* need .* MiB .* memory is 97\.66 KiB"):
        Ledger(100_000).check(footprint, 1000)
    with pytest.raises(BudgetTooSmallError, match="keeps everything"):
        Footprint.of(_capacity("100KiB", "full"), 1000, 100)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 900), st.integers(1, 500), st.integers(1, 500), st.integers(1, 6)), max_size=10
    ),
    most_rows=st.integers(1, 6),
    allowance=st.sampled_from([None, 1, 50, 300]),
    readers=st.integers(1, 2),
    data=st.data(),
)
def test_every_request_is_read_in_its_turn_and_none_starves(
    sizes: list[tuple[int, int, int, int]], most_rows: int, allowance: int | None, readers: int, data: st.DataObject
) -> None:
    """Any arrivals, ends, cancellations and failures: memory and rows are never exceeded, and all is given back."""
    scheduler: Scheduler[Asked] = Scheduler(Ledger(1000), most_rows, allowance, readers=readers)
    coming = [
        Asked(number, tokens, Footprint(reading, running), steps)
        for number, (tokens, reading, running, steps) in enumerate(sizes)
    ]
    arrived: list[int] = []
    cancelled: set[int] = set()
    read: list[int] = []
    for _ in itertools.count():
        if coming and (scheduler.is_idle or data.draw(st.booleans())):
            scheduler.add(coming[0])
            arrived.append(coming.pop(0).number)
        alive = scheduler.all()
        if alive and data.draw(st.integers(0, 9)) == 0:
            gone = data.draw(st.sampled_from(alive))
            scheduler.end(gone)
            cancelled.add(gone.number)
        if request := scheduler.next_to_read():
            if scheduler.running and data.draw(st.integers(0, 9)) == 0:
                scheduler.put_back(request)
                assert scheduler.next_to_read() is None
            else:
                read.append(request.number)
                for _ in range(4):
                    while scheduler.must_step(request.prompt_tokens / 4):
                        scheduler.count_step()
                    scheduler.count_read(request.prompt_tokens / 4)
                if len(scheduler.reading) == readers or data.draw(st.booleans()):
                    scheduler.run(data.draw(st.sampled_from(list(scheduler.reading.values()))))
        elif scheduler.running:
            scheduler.count_step()
            for running in list(scheduler.running.values()):
                running.steps -= 1
                if running.steps <= 0:
                    scheduler.end(running)
        elif scheduler.reading:
            scheduler.run(next(iter(scheduler.reading.values())))
        elif scheduler.waiting:
            # Nothing runs: whatever waits first can begin.
            raise AssertionError("the first of the line waits for nothing")
        held = sum(other.footprint.running for other in scheduler.running.values())
        held += sum(other.footprint.most for other in scheduler.reading.values())
        assert held == scheduler.ledger.reserved_bytes <= 1000
        assert len(scheduler.running) + len(scheduler.reading) <= most_rows
        if not coming and scheduler.is_idle:
            break
    assert read == [number for number in arrived if number in read]
    assert {*read} | cancelled == {*arrived}
    assert scheduler.ledger.reserved_bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    limits=st.lists(st.integers(100, 1000), min_size=2, max_size=3),
    sizes=st.lists(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=3, max_size=3), max_size=12),
    data=st.data(),
)
def test_no_device_has_more_reserved_than_its_limit(
    limits: list[int], sizes: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    """Requests begin, run and end, and share things, in any order; what is told of the devices are their sums."""
    names = [f"cuda:{number}" for number in range(len(limits))]
    ledger = Ledger(dict(zip(names, limits, strict=True)), [names[layer % len(names)] for layer in range(7)])
    assert (sum(ledger.layers), ledger.memory_bytes) == (7, sum(limits))
    held: dict[int | str, tuple[int, ...]] = {}
    for number, size in enumerate(sizes):
        parts = tuple(Footprint(reading, running) for reading, running in size[: len(limits)])
        footprint = Footprint(9, 9, parts)
        sums = [sum(column) for column in zip(*held.values(), strict=True)] or [0] * len(limits)
        fits = all(had + part.most <= limit for had, part, limit in zip(sums, parts, limits, strict=True))
        assert (ledger.fits(footprint), ledger.fits(footprint, without=held)) == (fits, True)
        if fits:
            ledger.begin(number, footprint)
            held[number] = tuple(part.most for part in parts)
            if data.draw(st.booleans()):
                ledger.run(number, footprint)
                held[number] = tuple(part.running for part in parts)
        elif held:
            ledger.end(gone := data.draw(st.sampled_from(sorted(held, key=str))))
            del held[gone]
        shared = ledger.spread(7, data.draw(st.integers(0, 30)), 5)
        if ledger.has_room(shared):
            ledger.hold(f"shared {number}", shared)
            held[f"shared {number}"] = shared
        by_name = [sum(column) for column in zip(*held.values(), strict=True)] or [0] * len(limits)
        assert [ledger.reserved(name) for name in names] == by_name
        assert all(count <= limit for count, limit in zip(by_name, limits, strict=True))
        assert ledger.reserved_bytes == sum(by_name)


def test_a_request_that_can_never_fit_one_device_is_refused_with_its_name() -> None:
    capacity = _capacity("100%", "h2o")
    footprint = Footprint.of(capacity, 1000, 100, divided=(3, 1))
    ledger = Ledger({"cuda:0": 2**30, "cuda:1": 100_000}, ["cuda:0"] * 3 + ["cuda:1"])
    with pytest.raises(BudgetTooSmallError, match=r"cache on cuda:1, and memory there is 97\.66 KiB: give a smaller"):
        ledger.check(footprint, 1000)
    assert not ledger.fits(footprint)


FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.mark.parametrize("asked", ["1KiB,2KiB", [1024, "2KiB"], {"cuda:1": "2KiB", "cuda:0": 1024}])
def test_limits_are_those_of_the_devices_in_the_order_of_their_layers(asked: Memory) -> None:
    limits = memory_limits(asked, FIRST, [FIRST, FIRST, SECOND])
    assert limits == {"cuda:0": 1024, "cuda:1": 2048}
    assert isinstance(limits, dict)
    assert list(limits) == ["cuda:0", "cuda:1"]
    assert memory_limits("2KiB", FIRST, [FIRST, SECOND]) == 2048


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            "1GB,2GB,3GB",
            "memory has 3 limits, and the model's compressed layers are on cuda:0, cuda:1: give one for each",
        ),
        ({"cuda:0": "1GB", "cuda:7": "1GB"}, "memory has limits for cuda:0, cuda:7, and the model's .* cuda:0, cuda:1"),
        ({"cuda:0": "1GB"}, "memory has limits for cuda:0, and"),
        (["1GB,2GB", "1GB"], "memory '1GB,2GB' has several sizes"),
        ("1GB,20%", "memory '1GB,20%' is no size: give one such as 4GiB, or one for each device"),
        ("1GB,", "memory '1GB,' is no size"),
    ],
)
def test_limits_of_other_devices_are_refused(asked: Memory, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        memory_limits(asked, FIRST, [FIRST, SECOND])


def test_an_engine_with_limits_answers_as_one_with_a_single_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests of which a limit has room for one at a time; a longer one is refused."""
    model, ids = tiny.llama(layers=4), tiny.text(60)
    with prefixkv.Engine(model, memory="4MiB") as engine:
        expected = engine.submit({"input_ids": ids}, "50%", Sampling(5)).result()
    # Names of two devices that are one.
    monkeypatch.setattr("prefixkv.engine.engine.layer_devices", lambda model: [FIRST] * 3 + [SECOND])
    with prefixkv.Engine(model, memory="4MiB") as engine:
        most = engine.footprint(60, "50%", 5)
    assert not most.parts
    with prefixkv.Engine(model, memory=[2**22, 2**22]) as engine:
        first, second = (part.most for part in engine.footprint(60, "50%", 5).parts)
    with prefixkv.Engine(model, memory=[first + second, second]) as engine:
        assert engine.memory_bytes == first + 2 * second
        streams = [engine.submit({"input_ids": ids}, "50%", Sampling(5)) for _ in range(2)]
        assert [stream.result() for stream in streams] == [expected] * 2
        with pytest.raises(BudgetTooSmallError, match="on cuda:1, and memory there is"):
            engine.submit({"input_ids": tiny.text(70)}, "50%", Sampling(5))


def _running(rows: int, most_rows: int, short_tokens: int = 0) -> Scheduler[Asked]:
    """A scheduler with rows that run, 100 tokens to a step."""
    scheduler: Scheduler[Asked] = Scheduler(Ledger(1000), most_rows, 100, short_tokens)
    for number in range(rows):
        scheduler.add(Asked(number, 0, Footprint(1, 1)))
        request = scheduler.next_to_read()
        assert request is not None
        scheduler.run(request)
    return scheduler


def _steps_between(scheduler: Scheduler[Asked], parts: int) -> list[int]:
    """Read a prompt of 1,000 tokens in so many parts; the steps before it, and before each part."""
    counts = [0]
    while (request := scheduler.next_to_read()) is None:
        scheduler.count_step()
        counts[0] += 1
    for _ in range(parts):
        counts.append(0)
        while scheduler.must_step(1000 / parts):
            scheduler.count_step()
            counts[-1] += 1
        scheduler.count_read(1000 / parts)
    scheduler.run(request)
    return counts


@pytest.mark.parametrize(("parts", "between"), [(1, 10), (4, 3), (10, 2), (40, 2)])
def test_running_rows_take_steps_while_a_long_prompt_is_read(parts: int, between: int) -> None:
    """About one for each allowance of its tokens, as evenly as the parts allow."""
    scheduler = _running(40, 64)
    for number in range(100, 103):
        scheduler.add(Asked(number, 1000, Footprint(1, 1)))
    counts = [_steps_between(scheduler, parts) for _ in range(3)]
    assert max(map(max, counts)) <= between
    # Parts that do not divide an allowance are followed by a step more.
    assert sum(map(sum, counts)) in range(16, 37)


def test_nobody_is_owed_a_step_while_nobody_runs() -> None:
    scheduler = _running(0, 64)
    scheduler.add(Asked(1, 1000, Footprint(1, 1)))
    assert _steps_between(scheduler, 10) == [0] * 11


def test_many_prompts_go_before_few_rows() -> None:
    """Places are filled first; the more rows run, and the fewer prompts there are for free places, the less."""
    steps = {}
    for running, waiting, most_rows in [(1, 50, 64), (16, 16, 64), (16, 1, 64), (60, 50, 64), (64, 50, 65), (1, 50, 2)]:
        scheduler = _running(running, most_rows)
        for number in range(100, 100 + waiting):
            scheduler.add(Asked(number, 1000, Footprint(1, 1)))
        steps[running, waiting, most_rows] = sum(_steps_between(scheduler, 50))
    assert steps == {
        (1, 50, 64): 0,
        (16, 16, 64): 0,
        (16, 1, 64): 9,
        (60, 50, 64): 3,
        (64, 50, 65): 9,
        (1, 50, 2): 9,
    }


@pytest.mark.parametrize(("short_tokens", "steps"), [(999, [0, 1, 1, 1]), (1000, [3, 4, 4, 4])])
def test_rows_step_while_short_prompts_fill_places(short_tokens: int, steps: list[int]) -> None:
    """However many prompts wait, a short one leaves a device the time for steps, which only the host is short of."""
    scheduler = _running(8, 64, short_tokens)
    for number in range(100, 150):
        scheduler.add(Asked(number, 1000, Footprint(1, 1)))
    assert [sum(_steps_between(scheduler, 50)) for _ in range(4)] == steps
