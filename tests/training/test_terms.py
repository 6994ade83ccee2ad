"""What AVEL and MEM are worth on held-out clips, against loops, and what their gradients reach, against steps."""

import math

import pytest
import torch
from conftest import batch_of, quiet

from foalkit.corpora.folds import split
from foalkit.training import networks, runs
from foalkit.training.loop import train
from foalkit.training.terms import held_out_terms, reach


def built(p, data, variant="foal-net", seed=0):
    torch.manual_seed(seed)
    net = networks.build_net(p, variant, data.stores, data.table["utterance"].tolist())
    for w in net.parameters():  # far enough from 0 that answers differ
        if w.ndim == 2:
            torch.nn.init.normal_(w)
    return net, p.for_variant(variant)


def naive_terms(net, p, streams, labels, parts, drawn):
    """A loop over clips: each in a batch of its own through the model, pairs one by one."""
    core, tau = net.core, net.core.temperature.item()
    total = {"avel": [], "mem": [], "hard": [], "drawn": []}
    hits, by_chance = {}, {}

    def one(i):
        return {s: (x[i : i + 1], mask[i : i + 1]) for s, (x, mask) in streams.items()}

    for part, (drawn_video, drawn_audio) in zip(parts, drawn, strict=True):
        part = part.tolist()
        sound, picture = [], []
        for i in part:
            (a, am), (v, vm) = net.enter(one(i))
            za, zv = core.project(a, v, am, vm)
            sound.append((za / za.norm())[0])
            picture.append((zv / zv.norm())[0])
        s = [[float(x @ y) / tau for y in picture] for x in sound]
        n = len(part)
        for i in range(n):
            emotion = int(labels[part[i]])
            others = [j for j in range(n) if j != i]
            near = max(others, key=lambda j: s[i][j])
            hits.setdefault(emotion, []).append(int(labels[part[near]]) == emotion)
            by_chance.setdefault(emotion, []).append(sum(int(labels[part[j]]) == emotion for j in others) / len(others))
            for row in ([s[i][j] for j in range(n)], [s[j][i] for j in range(n)]):
                whole = math.log(sum(math.exp(x) for x in row))
                total["avel"].append(sum(whole - row[j] for j in range(n) if labels[part[j]] == emotion))
            strangers = [j for j in range(n) if labels[part[j]] != emotion]
            hard = {"video": max(strangers, key=lambda j: s[i][j]), "audio": max(strangers, key=lambda j: s[j][i])}
            any_one = {"video": int(drawn_video[i]), "audio": int(drawn_audio[i])}

            def logits(video, audio, i=i, part=part):
                """Sound i with that video, and video i with that sound."""
                (a, am), (v, vm) = net.enter(one(part[i]))
                (_, _), (v2, vm2) = net.enter(one(part[video]))
                (a2, am2), _ = net.enter(one(part[audio]))
                return core.match_a2v(core.fuse(a, v2, am, vm2).a2v)[0], core.match_v2a(core.fuse(a2, v, am2, vm).v2a)[
                    0
                ]

            own = logits(i, i)
            for which, other in (("hard", hard), ("drawn", any_one)):
                for yes, no in zip(own, logits(**other), strict=True):
                    total[which] += [float(yes[1] > yes[0]), float(no[0] >= no[1])]
                    if which == "hard":
                        losses = [
                            math.log(1 + math.exp(float(yes[0] - yes[1]))),
                            math.log(1 + math.exp(float(no[1] - no[0]))),
                        ]
                        total["mem"] += losses
    mean = {name: sum(v) / len(v) for name, v in total.items()}
    macro = [sum(sum(v) / len(v) for v in group.values()) / len(group) for group in (hits, by_chance)]
    return {
        "held_avel": mean["avel"],
        "held_retrieval": macro[0],
        "held_retrieval_chance": macro[1],
        "held_mem": mean["mem"],
        "held_mem_accuracy": mean["hard"],
        "held_mem_accuracy_drawn": mean["drawn"],
    }


def batches(labels, size):
    """The batches that the measures are taken over, and the drawn negatives, as documented: one seeded order."""
    from foalkit.losses import hard_negatives

    rng = torch.Generator().manual_seed(0)
    parts = torch.randperm(len(labels), generator=rng).tensor_split(-(-len(labels) // size))
    drawn = [
        hard_negatives(torch.zeros(len(part), len(part)), labels[part], how="multinomial", generator=rng)[:2]
        for part in parts
    ]
    return parts, drawn


def test_held_out_terms_are_the_naive_loops(p, easy):
    net, own = built(p, easy)
    streams, labels = batch_of(easy, [*range(16), 20, 21, 22])
    net.eval()
    with torch.no_grad():
        want = naive_terms(net, own, streams, labels, *batches(labels, own.training.batch))
        got = held_out_terms(
            net, lambda rows: net.enter({s: (x[rows], m[rows]) for s, (x, m) in streams.items()}), labels, own
        )
    assert {k: got[k] for k in want} == pytest.approx(want, rel=1e-4)
    assert got["held_avel_floor"] < got["held_avel_chance"]
    assert 0.1 < want["held_mem_accuracy"] < 0.9 and want["held_mem_accuracy"] != want["held_mem_accuracy_drawn"]


def test_only_weighted_terms_are_measured(p, easy):
    streams, labels = batch_of(easy, range(16))
    seen = {}
    for variant in ("baseline", "avel", "mem", "audio"):
        net, own = built(p, easy, variant)
        enter = lambda rows, net=net: net.enter({s: (x[rows], m[rows]) for s, (x, m) in streams.items()})  # noqa: E731
        seen[variant] = {name.split("_")[1] for name in held_out_terms(net, enter, labels, own)}
    assert seen == {"baseline": set(), "avel": {"avel", "retrieval"}, "mem": {"mem"}, "audio": set()}


def moved_by(net, term, streams, labels, p):
    """The classifier's answers before and after a step against one term alone."""
    net.eval()
    before = net(streams).detach()
    from foalkit.training.gradients import loss_terms

    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    loss_terms(net.core, net.enter(streams), labels, p)[term].backward()
    optimiser.step()
    return bool((net(streams) != before).any())


@pytest.mark.parametrize("inputs", [True, False])
def test_reach_says_whether_a_step_against_the_term_alone_changes_an_answer(p, easy, inputs):
    if not inputs:  # frozen features as they are: AVEL trains its own projections, which nothing else reads
        p = p.model_copy(update={"model": p.model.model_copy(update={"inputs": {}, "heads": 1})})
    p, (streams, labels) = quiet(p), batch_of(easy, range(8))
    net, own = built(p, easy)
    state = torch.get_rng_state()
    found = reach(net, streams, labels, own)
    assert torch.equal(torch.get_rng_state(), state)
    for term in ("avel", "mem"):
        fresh, _ = built(p, easy)
        assert (found[term]["of_classifier"] > 0) == moved_by(fresh, term, streams, labels, own)
    assert (found["avel"]["of_classifier"] > 0) == inputs and found["mem"]["of_classifier"] > 0
    assert found["avel"]["of_classifier"] < found["avel"]["weights"]


def test_a_run_keeps_its_terms_and_their_reach(p, easy, tmp_path):
    from foalkit.results import records

    p = p.model_copy(update={"outputs": str(tmp_path)})
    for protocol in ("honest", "published"):
        record = records.read_record(runs.run(p, "foal-net", 1, 0, protocol, easy))
        assert record["terms"].keys() == {"ce", "avel", "mem"} and record["reach"]["avel"]["of_classifier"] > 0
        chosen = record["scores"][record["selection"]]["epoch"]
        row = next(r for r in record["history"] if r["epoch"] == chosen)
        assert record["terms"]["avel"]["value"] == row["held_avel"]
        assert record["terms"]["ce"]["value"] == row[f"{record['selection']}_loss"]
        assert all(r["avel_floor"] < r["avel_chance"] for r in record["history"])


def test_a_learned_alignment_shows_on_held_out_clips(p, easy):
    p = quiet(p, epochs=30)
    last = train(p, "foal-net", easy, split(easy.table, p, 1, "honest"), 0, "honest").history.iloc[-1]
    assert last["held_avel"] < (last["held_avel_chance"] + last["held_avel_floor"]) / 2
    assert last["held_retrieval"] > 0.8
