"""Fault plans: seeded, repeatable, checked, and JSON and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upload_kit.bench.faults import Direction, Fault, FaultKind, FaultPlan
from upload_kit.errors import ConfigurationError

plans = st.builds(
    FaultPlan,
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
    kinds=st.lists(st.sampled_from(FaultKind), min_size=1).map(tuple),
    within=st.integers(1, 1 << 30),
    max_seconds=st.floats(0, 10),
)


@given(plan=plans, order=st.permutations(range(8)))
def test_plan_gives_each_connection_the_same_faults_in_any_order(
    plan: FaultPlan, order: list[int]
) -> None:
    """Faults depend on the seed and the number of the connection alone."""
    straight = {index: plan.for_connection(index) for index in range(8)}
    assert {index: plan.for_connection(index) for index in order} == straight


@given(plan=plans, index=st.integers(0, 10_000))
def test_random_faults_stay_within_the_plan(plan: FaultPlan, index: int) -> None:
    """Kind, place and duration are those that the plan allows."""
    for fault in plan.for_connection(index):
        assert fault.kind in plan.kinds
        assert fault.seconds is not None
        assert 0 <= fault.seconds <= plan.max_seconds
        if fault.direction is Direction.UP:
            assert 0 <= fault.after < plan.within


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_connections_suffers(share: float) -> None:
    """Over many connections the share comes out as asked for."""
    plan = FaultPlan(seed=1, share=share)
    struck = sum(bool(plan.for_connection(index)) for index in range(2000))
    assert abs(struck / 2000 - share) <= 0.03


def test_every_kind_is_drawn() -> None:
    """A plan that says nothing about kinds draws all of them."""
    plan = FaultPlan(share=1.0)
    drawn = {fault.kind for i in range(200) for fault in plan.for_connection(i)}
    assert drawn == set(FaultKind)


def test_stalls_without_an_end_come_as_often_as_asked() -> None:
    """Of the random stalls, that share is for ever; of the others none."""
    plan = FaultPlan(share=1.0, endless=0.3)
    drawn = [fault for i in range(7000) for fault in plan.for_connection(i)]
    stalls = [fault for fault in drawn if fault.kind is FaultKind.STALL]
    endless = [fault for fault in drawn if fault.seconds is None]
    assert {fault.kind for fault in endless} == {FaultKind.STALL}
    assert abs(len(endless) / len(stalls) - 0.3) <= 0.06


def test_busy_times_differ_in_what_they_answer() -> None:
    """Every status and every form of `Retry-After` comes."""
    plan = FaultPlan(share=1.0, kinds=(FaultKind.BUSY,))
    drawn = [fault for i in range(200) for fault in plan.for_connection(i)]
    assert {fault.status for fault in drawn} == {429, 500, 502, 503}
    assert {fault.retry_after for fault in drawn} == {None, 0, 1}


def test_another_seed_gives_other_faults() -> None:
    """Two seeds are two runs."""
    one, two = FaultPlan(seed=1, share=1.0), FaultPlan(seed=2, share=1.0)
    assert [one.for_connection(i) for i in range(5)] != [
        two.for_connection(i) for i in range(5)
    ]


def test_script_comes_before_chance() -> None:
    """The first connections suffer what the script says, and only that."""
    fault = Fault(kind=FaultKind.STALL, after=10, seconds=1.0)
    plan = FaultPlan(script=((fault, fault), ()), share=1.0)
    assert plan.for_connection(0) == (fault, fault)
    assert plan.for_connection(1) == ()
    assert len(plan.for_connection(2)) == 1


@given(plan=plans)
def test_plan_survives_json(plan: FaultPlan) -> None:
    """A plan goes to the process of a link and arrives as it was."""
    whole = FaultPlan(script=(plan.for_connection(0),), seed=plan.seed)
    assert FaultPlan.from_json(plan.to_json()) == plan
    assert FaultPlan.from_json(whole.to_json()) == whole


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: Fault(kind=FaultKind.CUT, after=-1), id="after"),
        pytest.param(lambda: Fault(kind=FaultKind.STALL, seconds=-1), id="seconds"),
        pytest.param(
            lambda: Fault(kind=FaultKind.LOSE_REPLY, direction=Direction.DOWN),
            id="lost-reply-down",
        ),
        pytest.param(lambda: Fault(kind=FaultKind.REFUSE, after=1), id="late-refusal"),
        pytest.param(lambda: Fault(kind=FaultKind.BUSY, after=1), id="late-busy"),
        pytest.param(lambda: Fault(kind=FaultKind.BUSY, status=200), id="status"),
        pytest.param(lambda: FaultPlan(share=1.1), id="share"),
        pytest.param(lambda: FaultPlan(endless=-0.1), id="endless"),
        pytest.param(lambda: FaultPlan(within=0), id="within"),
        pytest.param(lambda: FaultPlan(max_seconds=-1), id="max-seconds"),
        pytest.param(lambda: FaultPlan(kinds=()), id="kinds"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: object) -> None:
    """What cannot happen cannot be planned."""
    assert callable(wrong)
    with pytest.raises(ConfigurationError):
        wrong()
