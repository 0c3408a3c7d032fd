"""topics.yaml: what it may say, and how a role's signature is held against it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.runtime.declarations import DeclarationError
from agents.runtime.delays import LADDER
from agents.runtime.topology import Topology, TopologyError, load_topology
from schemas.registry import PAYLOADS

SHIPPED = Path(__file__).parents[2] / "topics.yaml"

Load = Callable[[str], Topology]

HEAD = "defaults: {owner: us}\ntopics:\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load_text(text: str) -> Topology:
        Path("topics.yaml").write_text(text, encoding="utf-8")
        return load_topology(Path("topics.yaml"))

    return load_text


@pytest.fixture(scope="module")
def shipped() -> Topology:
    return load_topology(SHIPPED)


def problems(load: Load, text: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


def test_the_shipped_file_carries_every_payload(shipped: Topology) -> None:
    carried = {topic.schema for topic in shipped.topics.values()}
    assert carried == {*PAYLOADS, "bytes"}


def test_the_sink_reads_every_shipped_topic_but_those_in_which_records_wait(
    shipped: Topology,
) -> None:
    unread = {topic.name for topic in shipped.topics.values() if "sink" not in topic.consumers}
    assert unread == {topic for topic, _ in LADDER}
    assert all(shipped.topics[name].consumers == ("delayer",) for name in unread)


def test_a_role_reads_the_topics_that_list_it(shipped: Topology) -> None:
    names = [topic.name for topic in shipped.consumed_by("router")]
    assert names == [
        "millstream.verdicts.v1",
        "millstream.results.v1",
        "millstream.outcomes.v1",
        "millstream.commands.v1",
    ]


def test_a_payload_goes_to_the_one_topic_of_its_producer(shipped: Topology) -> None:
    assert shipped.topic_for("planner", "Plan").name == "millstream.plans.v1"
    assert shipped.topic_for("safety_checker", "Outcome").name == "millstream.outcomes.v1"


def test_a_step_goes_to_the_topic_of_its_executor(shipped: Topology) -> None:
    topic = shipped.topic_for("router", "Step", executor="notify")
    assert topic.name == "millstream.steps.notify.v1"


@pytest.mark.parametrize(
    ("role", "schema", "executor"),
    [("reporter", "Plan", None), ("router", "Step", "telepathy"), ("router", "Step", None)],
)
def test_a_payload_without_a_topic_is_an_error_that_says_what_to_add(
    shipped: Topology, role: str, schema: str, executor: str | None
) -> None:
    with pytest.raises(TopologyError, match=f"add {role} to the producers of a topic with schema"):
        shipped.topic_for(role, schema, executor=executor)


def test_the_first_consumer_beside_the_sink_dead_letters_a_topic(shipped: Topology) -> None:
    assert shipped.topics["millstream.requests.v1"].primary == "intent_parser"
    assert shipped.topics["millstream.reports.v1"].primary is None


def test_a_lane_is_a_prefix_of_the_name(shipped: Topology) -> None:
    topic = shipped.topics["millstream.plans.v1"]
    assert topic.name_in("") == "millstream.plans.v1"
    assert topic.name_in("canary.") == "canary.millstream.plans.v1"


def test_the_configuration_is_in_kafkas_terms(shipped: Topology) -> None:
    assert shipped.topics["millstream.states.v1"].config() == {
        "cleanup.policy": "compact,delete",
        "max.message.bytes": "3000000",
        "message.timestamp.type": "CreateTime",
        "min.compaction.lag.ms": "86400000",
        "retention.ms": "604800000",
    }
    requests = shipped.topics["millstream.requests.v1"].config()
    assert requests["message.timestamp.type"] == "LogAppendTime"


def test_a_topic_overrides_the_defaults(load: Load) -> None:
    topology = load(
        "defaults: {owner: us, retention: 1d, partitions: 3}\n"
        "topics:\n"
        "  millstream.plans.v1: {schema: Plan, producers: [a], consumers: [b], retention: 2d}\n"
    )
    topic = topology.topics["millstream.plans.v1"]
    assert (topic.retention.days, topic.partitions, topic.owner) == (2, 3, "us")
    assert topic.source == "topics.yaml:3"


def test_all_mistakes_of_a_file_are_named_with_their_lines(load: Load) -> None:
    text = HEAD + (
        "  millstream.Plans_x.v1: {schema: Plan, producers: [a], consumers: [b]}\n"
        "  millstream.verdicts.v1: {schema: Verdikt, producers: [a], consumers: [b]}\n"
        "  millstream.intents.v1:\n"
        "    schema: Intent\n"
        "    retention: 7 days\n"
        "    producers: []\n"
        "  millstream.steps.http.v1: {schema: Step, producers: [r], consumers: [sink]}\n"
        "  millstream.states.v1:\n"
        "    schema: ExecutionState\n"
        "    min_compaction_lag: 1d\n"
        "    producers: [r, r]\n"
        "    consumers: [sink, any]\n"
        "    primary: sink\n"
    )
    found = problems(load, text)
    assert [line.split(": ")[:2] for line in found] == [
        ["topics.yaml:3", 'at topics."millstream.Plans_x.v1"'],
        ["topics.yaml:4", 'at topics."millstream.verdicts.v1".schema'],
        ["topics.yaml:5", 'at topics."millstream.intents.v1".consumers'],
        ["topics.yaml:7", 'at topics."millstream.intents.v1".retention'],
        ["topics.yaml:8", 'at topics."millstream.intents.v1".producers'],
        ["topics.yaml:9", 'at topics."millstream.steps.http.v1"'],
        ["topics.yaml:12", 'at topics."millstream.states.v1".min_compaction_lag'],
        ["topics.yaml:13", 'at topics."millstream.states.v1".producers[1]'],
        ["topics.yaml:14", 'at topics."millstream.states.v1".consumers[1]'],
        ["topics.yaml:15", 'at topics."millstream.states.v1".primary'],
    ]
    assert "millstream.<noun>[.<sub>].v<N>, lower case, no underscores" in found[0]
    assert "did you mean 'Verdict'?" in found[1]


def test_topics_with_the_same_key_have_the_same_number_of_partitions(load: Load) -> None:
    text = HEAD + (
        "  millstream.intents.v1: {schema: Intent, producers: [a], consumers: [b]}\n"
        "  millstream.plans.v1: {schema: Plan, producers: [a], consumers: [b]}\n"
        "  millstream.reports.v1:\n"
        "    schema: ExecutionReport\n"
        "    partitions: 12\n"
        "    producers: [a]\n"
        "    consumers: [b]\n"
        "  millstream.dead-letters.v1:\n"
        "    {schema: bytes, key: any, partitions: 1, producers: [any], consumers: [sink]}\n"
    )
    assert problems(load, text) == [
        (
            'topics.yaml:7: at topics."millstream.reports.v1".partitions: 12 partitions, while '
            "other topics with this key have 6; expected the same number for all topics keyed by "
            "correlation_id, such as 6"
        )
    ]


def test_two_topics_for_one_role_and_schema_are_ambiguous(load: Load) -> None:
    text = HEAD + (
        "  millstream.plans.v1: {schema: Plan, producers: [planner], consumers: [b]}\n"
        "  millstream.plans.v2: {schema: Plan, producers: [planner], consumers: [b]}\n"
    )
    assert problems(load, text) == [
        (
            'topics.yaml:4: at topics."millstream.plans.v2".producers[0]: '
            "'planner' already publishes Plan on millstream.plans.v1; "
            "expected one topic for a role and a schema"
        )
    ]


def test_a_topic_without_an_owner_is_a_mistake(load: Load) -> None:
    text = "topics:\n  millstream.plans.v1: {schema: Plan, producers: [a], consumers: [b]}\n"
    assert "owner: it is missing" in problems(load, text)[0]


def test_a_role_that_keeps_order_reads_no_topic_whose_records_may_wait(shipped: Topology) -> None:
    consumes = {"Verdict", "StepResult", "Outcome", "Command"}
    emits = {"Step", "ExecutionState", "Plan", "CommandAnswer"}
    shipped.check_role("router", consumes, emits, "router.py:9", keeps_order=True)
    with pytest.raises(
        TopologyError, match=r"intents\.v1 may wait .* planner.py:9 .*may_wait: false"
    ):
        shipped.check_role(
            "planner", {"Intent"}, {"Plan", "Outcome"}, "planner.py:9", keeps_order=True
        )


def test_a_signature_that_agrees_passes(shipped: Topology) -> None:
    shipped.check_role("planner", {"Intent"}, {"Plan", "Outcome"}, "planner.py:9")
    shipped.check_role("reporter", {"ExecutionState"}, {"ExecutionReport"}, "reporter.py:9")


@pytest.mark.parametrize(
    ("consumes", "emits", "expected"),
    [
        (
            {"Intent", "Verdict"},
            {"Plan", "Outcome"},
            (
                r"planner\.py:9: role 'planner' consumes Verdict, but it is not among "
                r"the consumers at .*topics\.yaml:\d+ \(millstream\.verdicts\.v1\)"
            ),
        ),
        (
            {"Intent"},
            {"Plan", "Outcome", "Command"},
            (
                r"planner\.py:9: role 'planner' emits Command, but it is not among "
                r"the producers at .*topics\.yaml:\d+ \(millstream\.commands\.v1\)"
            ),
        ),
        (
            {"Intent"},
            {"Plan"},
            (
                r"topics\.yaml:\d+: millstream\.outcomes\.v1 has role 'planner' among its "
                r"producers, but its function at planner\.py:9 emits Plan, not Outcome"
            ),
        ),
        (
            set[str](),
            {"Plan", "Outcome"},
            (
                r"topics\.yaml:\d+: millstream\.intents\.v1 has role 'planner' among its "
                r"consumers, but its function at planner\.py:9 consumes nothing, not Intent"
            ),
        ),
        (
            {"Intent"},
            {"Plan", "Outcome", "Novel"},
            r"planner\.py:9: role 'planner' emits Novel, but no topic of .*topics\.yaml carries it",
        ),
    ],
)
def test_a_signature_that_disagrees_is_refused_with_both_places_named(
    shipped: Topology, consumes: set[str], emits: set[str], expected: str
) -> None:
    with pytest.raises(TopologyError, match=expected) as caught:
        shipped.check_role("planner", consumes, emits, "planner.py:9")
    assert len(str(caught.value).splitlines()) == 1
