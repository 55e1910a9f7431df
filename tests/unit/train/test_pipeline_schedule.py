"""The pipeline's order of work, run by a model of stages whose sends wait until they are received."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.train.pipeline_schedule import Action, one_forward_one_backward

DEGREES = st.integers(1, 6).flatmap(lambda stages: st.tuples(st.just(stages), st.integers(stages, stages + 9)))


def finish(programs, *, buffered):
    """Run all stages as far as they come; what is left over of each. A send needs its receive at the same time unless buffered."""
    left = [deque(program) for program in programs]
    mail = {}
    moved = True
    while moved:
        moved = False
        for stage, program in enumerate(left):
            while program:
                kind, micro = program[0]
                direction = kind.partition("_")[2]
                if kind in ("forward", "backward"):
                    pass
                elif kind.startswith("send"):
                    other = stage + 1 if direction == "forward" else stage - 1
                    if buffered:
                        mail.setdefault((direction, other), deque()).append(micro)
                    elif left[other] and left[other][0].kind == f"receive_{direction}":
                        assert left[other].popleft().micro == micro, "micro batches are mixed up"
                    else:
                        break
                elif buffered and mail.get((direction, stage)):
                    assert mail[direction, stage].popleft() == micro, "micro batches are mixed up"
                else:
                    break
                program.popleft()
                moved = True
    return left


def all_stages(stages, micro_batches):
    return [one_forward_one_backward(stage, stages, micro_batches) for stage in range(stages)]


@given(DEGREES, st.booleans())
def test_it_ends_with_and_without_buffers_between_stages(degrees, buffered):
    assert not any(finish(all_stages(*degrees), buffered=buffered))


@given(DEGREES)
def test_every_micro_batch_goes_through_every_stage_once_and_few_are_in_flight(degrees):
    stages, micro_batches = degrees
    for stage, program in enumerate(all_stages(stages, micro_batches)):
        kinds = {kind: [a.micro for a in program if a.kind == kind] for kind in ("forward", "backward")}
        assert kinds["forward"] == kinds["backward"] == list(range(micro_batches))
        flying = most = 0
        for action in program:
            flying += (action.kind == "forward") - (action.kind == "backward")
            most = max(most, flying)
        assert most == stages - stage


@given(DEGREES)
def test_nothing_is_computed_before_its_input_is_there(degrees):
    stages, micro_batches = degrees
    for stage, program in enumerate(all_stages(stages, micro_batches)):
        seen = set()
        for action in program:
            kind, micro = action
            needs = {
                "forward": ("receive_forward", stage > 0),
                "backward": ("receive_backward", stage < stages - 1),
                "send_forward": ("forward", True),
                "send_backward": ("backward", True),
            }.get(kind)
            if needs and needs[1]:
                assert Action(needs[0], micro) in seen
            seen.add(action)


@pytest.mark.parametrize("stages", [2, 4])
def test_the_model_of_stages_sees_a_deadlock(stages):
    """Without the order of even and odd stages, two neighbours send to each other and wait for ever."""
    programs = all_stages(stages, stages + 2)
    for program in programs:
        for at in range(len(program) - 1):
            a, b = program[at], program[at + 1]
            if a.kind.startswith("receive") and b.kind.startswith("send"):
                program[at], program[at + 1] = b, a
    assert any(finish(programs, buffered=False))
    assert not any(finish(programs, buffered=True))
