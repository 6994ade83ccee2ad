# The grid: preprocess → train (protocol × variant × fold × seed) → five-fold → ablation and report. With training.job
# "folds" a variant's training and its five-fold evaluation are one job. Each job is one papermill call
# (foalkit.job) in a process of its own; a job is done when its record exists, and records are written last and
# atomically (papermill reports a killed kernel as completed). A job runs where one of its outputs is not there, or when
# the digest of the params that shape it changes, or of the features; when a file was written does not matter: all inputs
# are `ancient`, as a copied folder has other times. `foalkit grid` runs it twice, features, then all, and takes away
# what is not whole before that (foalkit.results.whole).

import shlex
import sys
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

sys.path.insert(0, workflow.basedir)
from foalkit import UserError
from foalkit.files import read_mapping
from foalkit.params import load as _load
from foalkit.params.schema import Protocol



def given(name):
    """A value of --config as text; `foalkit grid` sends it in a list, since Snakemake reads YAML in a bare one."""
    value = config.get(name) or ""
    return unquote(value[0], errors="surrogateescape") if isinstance(value, list) else str(value)


PARAMS, OVERRIDES = given("params") or "demo", given("overrides")
try:
    P = _load(PARAMS, OVERRIDES)
except UserError as error:
    sys.exit(f"error: {error}")

# within this folder by its name there: braces of the way to it would be taken for wildcards
OUT = P.folder.relative_to(Path.cwd()) if P.folder.is_relative_to(Path.cwd()) else P.folder
SEEDS = P.seeds
ROWS = [(protocol, variant) for protocol, variants in P.ablation.items() for variant in variants]
# what the runs depend on: known when the features are made, which is why `foalkit grid` makes them before all else
try:
    PREPARED = read_mapping(P.folder / "preprocess.json")
    FEATURES = {"manifest": PREPARED["manifest_digest"], **{s: f["digest"] for s, f in PREPARED["features"].items()}}
    WITHOUT = set(PREPARED.get("without", {}))  # streams that the corpus has no files of
    ROWS = [(protocol, variant) for protocol, variant in ROWS if not WITHOUT & set(P.variants[variant].streams)]
except (OSError, ValueError, KeyError, TypeError, AttributeError):
    FEATURES = {}
GPUS = int(P.training.device != "cpu")
TRIED = [row for row in ROWS if row[0] == "honest" and row[1] in P.robustness.rows]
GROUPS = [group for held_out in P.folds.groups for group in held_out]


# the last line of a failed job says what is wrong; the whole of it is in the log
LOGGED = " > {log:q} 2>&1 < /dev/null || {{ tail -n 3 {log:q} >&2; exit 1; }}"


def runs_of(protocol, variant):
    """The records of all folds and seeds."""
    return [
        f"{OUT}/runs/{protocol}/{variant}/fold{fold}-seed{seed}/record.json"
        for fold in P.fold_numbers(protocol)
        for seed in SEEDS
    ]


def five_folds(rows):
    return [f"{OUT}/five_fold/{protocol}-{variant}.json" for protocol, variant in rows]


def features_of(variant, *folds):
    """The digests of the manifest and of what a variant is trained on in these folds."""
    sets = {P.set_name(stream, fold): None for stream in P.variants[variant].streams for fold in folds}
    return [FEATURES.get(name) for name in ["manifest", *sets]]


def word(value):
    """A value as one word of a shell line that Snakemake formats."""
    return shlex.quote(str(value)).replace("{", "{{").replace("}", "}}")


def papermill(notebook, *names, **more):
    """The shell line of one notebook with these wildcards as parameters, and more; its output is kept in a log."""
    given = {n: f"{{wildcards.{n}:q}}" for n in names} | more
    numbers = {"fold", "seed"}
    # papermill fills in what stands in braces in a path, too
    file = f"{workflow.basedir}/notebooks/{notebook}.ipynb".replace("{", "{{").replace("}", "}}")
    call = f"{word(sys.executable)} -m foalkit.job {word(file)} {{output.notebook:q}}"
    call += " --log-level WARNING --no-progress-bar --start-timeout 180"
    call += f" -r params {word(PARAMS)} -r overrides {word(OVERRIDES)}"
    call += "".join(f" {'-p' if n in numbers else '-r'} {n} {value}" for n, value in given.items())
    return call + LOGGED


def foalkit_(verb, options=""):
    """The shell line of a verb of `foalkit` with these params; its output is kept in a log."""
    return f"{word(sys.executable)} -m foalkit {verb} {options} -- {word(PARAMS)} {word(OVERRIDES)}{LOGGED}"


def gpus_for(spec):
    """How many GPUs a stream's extraction asks for."""
    return int(getattr(spec, "device", "cpu") != "cpu" and spec.model != "small")


wildcard_constraints:
    protocol="|".join(get_args(Protocol)),
    variant="[^/]+",
    fold=r"\d+",
    seed=r"\d+",
    stream="[^/]+",
    number=r"\d+",


# names everything: what is not there is made, also where a job before it runs again (Snakemake asks nobody who only
# has `ancient` inputs of such a job)
rule all:
    default_target: True
    input:
        [f"{OUT}/{name}" for name in ("preprocess.json", "report.html", "report.json")],
        [record for protocol, variant in ROWS for record in runs_of(protocol, variant)],
        five_folds(ROWS),
        [f"{OUT}/robustness.json"] if TRIED else [],


rule shards:  # a cluster's grid has them built before it preprocesses, which then joins them
    input:
        [f"{OUT}/shards/{stream}-{number}" for stream in P.features for number, _ in enumerate(GROUPS, 1)],


rule extract:
    input:
        [ancient(f"{OUT}/shards/corpus")] if P.corpus.generate else [],
    output:
        temp(touch(f"{OUT}/shards/{{stream}}-{{number}}")),
    log:
        f"{OUT}/logs/01_extract-{{stream}}-{{number}}.log",
    params:
        digest=P.data_digest,
        group=lambda w: GROUPS[int(w.number) - 1],
    threads: 8
    resources:
        gpu=lambda w: gpus_for(P.features[w.stream]),
    message:
        f"features of {{wildcards.stream}}, {P.folds.by} {{params.group}}"
    shell:
        foalkit_("extract", "--stream={wildcards.stream:q} --group={params.group:q}")


rule corpus:
    output:
        temp(touch(f"{OUT}/shards/corpus")),
    log:
        f"{OUT}/logs/01_corpus.log",
    params:
        digest=P.data_digest,
    threads: 2
    message:
        "generate the corpus"
    shell:
        foalkit_("extract")


rule preprocess:
    output:
        record=f"{OUT}/preprocess.json",
        notebook=f"{OUT}/notebooks/01_preprocess.ipynb",
    log:
        f"{OUT}/logs/01_preprocess.log",
    params:
        digest=P.data_digest,
    threads: 8  # or all there are, where there are fewer: it comes first, alone
    message:
        "preprocess: corpus, manifest, features"
    shell:
        papermill("01_preprocess")


if P.training.job == "fold":

    rule train:
        input:
            ancient(f"{OUT}/preprocess.json"),
            lambda w: [  # the runs whose weights it starts from
                ancient(f"{OUT}/runs/{w.protocol}/{start}/fold{w.fold}-seed{w.seed}/record.json")
                for start in P.variants[w.variant].starts_from
            ],
        output:
            record=update(f"{OUT}/runs/{{protocol}}/{{variant}}/fold{{fold}}-seed{{seed}}/record.json"),
            notebook=f"{OUT}/notebooks/02_train-{{protocol}}-{{variant}}-fold{{fold}}-seed{{seed}}.ipynb",
        log:
            f"{OUT}/logs/02_train-{{protocol}}-{{variant}}-fold{{fold}}-seed{{seed}}.log",
        params:
            digest=lambda w: P.digest(w.variant),
            features=lambda w: features_of(w.variant, int(w.fold)),
        threads: P.training.threads
        resources:
            gpu=GPUS,
        message:
            "train {wildcards.variant}, fold {wildcards.fold}, seed {wildcards.seed} ({wildcards.protocol})"
        shell:
            papermill("02_train", "protocol", "variant", "fold", "seed")

    rule five_fold:
        input:
            lambda w: ancient(runs_of(w.protocol, w.variant)),
        output:
            record=f"{OUT}/five_fold/{{protocol}}-{{variant}}.json",
            notebook=f"{OUT}/notebooks/03_five_fold-{{protocol}}-{{variant}}.ipynb",
        log:
            f"{OUT}/logs/03_five_fold-{{protocol}}-{{variant}}.log",
        message:
            "five folds of {wildcards.variant} ({wildcards.protocol})"
        shell:
            papermill("03_five_fold", "protocol", "variant")

else:  # notebook 03 trains what is missing: one kernel for all folds, which start faster than a notebook each

    for _protocol, _variant in ROWS:

        rule:
            name:
                f"train_{_protocol}_{_variant}".replace("-", "_")
            input:
                ancient(f"{OUT}/preprocess.json"),
                ancient(five_folds((_protocol, start) for start in P.variants[_variant].starts_from)),
            output:
                update(runs_of(_protocol, _variant)),
                record=f"{OUT}/five_fold/{_protocol}-{_variant}.json",
                notebook=f"{OUT}/notebooks/03_five_fold-{_protocol}-{_variant}.ipynb",
            log:
                f"{OUT}/logs/03_five_fold-{_protocol}-{_variant}.log",
            params:
                digest=P.digest(_variant),
                features=features_of(_variant, *P.fold_numbers(_protocol)),
                # for the shell line, which is made when the job starts: the loop is over then
                protocol=_protocol,
                variant=_variant,
            priority: len(P.variants[_variant].streams)  # long jobs first: no core waits for the last one
            threads: P.training.threads
            resources:
                gpu=GPUS,
            message:
                f"train {_variant}, all folds ({_protocol})"
            shell:
                papermill("03_five_fold", protocol="{params.protocol:q}", variant="{params.variant:q}")


rule robustness:  # one job: the rows share the damaged features
    input:
        [ancient(runs_of(*row)) for row in TRIED],
    output:
        f"{OUT}/robustness.json",
    log:
        f"{OUT}/logs/04_robustness.log",
    params:
        conditions=P.robustness.digest,
        rows=TRIED,
    threads: 8
    resources:
        gpu=GPUS,
    message:
        "robustness: trained rows on a damaged test side"
    shell:
        foalkit_("robustness")


rule ablation:
    input:
        ancient(five_folds(ROWS)),
        [ancient(f"{OUT}/robustness.json")] if TRIED else [],
    output:
        made_of=f"{OUT}/report.json",
        report=f"{OUT}/report.html",
        csv=f"{OUT}/tables/ablation.csv",
        tex=f"{OUT}/tables/ablation.tex",
        notebook=f"{OUT}/notebooks/04_ablation.ipynb",
    log:
        f"{OUT}/logs/04_ablation.log",
    message:
        "ablation tables and report"
    shell:
        papermill("04_ablation")
