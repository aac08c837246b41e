"""How long a release takes: ours, the reference workflow, and the hand-tuned script.

    python benchmarks/compare.py [--rounds N] [--only CASE...] [--out FOLDER]

Each contender gets a clone of HEAD of its own. They run in turns, and each run has to end with 0:

reference            The workflow of the talk: what the source needs is downloaded to a volume and
                     installed whenever a container of the tests or the builder starts.
reference-in-layers  The same, but that is in a layer of the image, which a changed line leaves
                     alone. No goal is against it; it says how much of a ratio is due to that.
hand-tuned           The script: the same steps, one after the other, on images like ours.
ours                 `invoke release.acceptance`.

The cases:

nothing   Nothing changed since an accepted run, and the command is typed again. The test
          environment of the references is up, so that they find their database running;
          everything else they take down by themselves at the end of each run.
change    One line of the application changed, uncommitted: a comment with a number that was never
          there before is appended to `app/todo/views.py`.
own       Of ours in `change`: the time in which no stage waited for a command (build, compose) or
          for the engine (containers, tests, probes), from the start of the process to its end. The
          pauses between two probes count as our own. Measured with `change`.
layers    After each contender's own `clean`, and on a base image that no build has seen: it is the
          usual one with a file of unique content, made anew for each run. So no layer of any
          contender is in BuildKit's cache, which belongs to everything on the engine and is not
          ours to prune. What stays are the cache mounts, where ours and the hand-tuned script keep
          packages of apt and pip; the references have none, and their volumes for pip go.
cold      The same, and the cache mounts are empty too: they get new names, in the clones.
list      `invoke --list` against bare Invoke with one task.
scale     How cost grows: releases side by side, wheels, files of the application. Not in turns.

"All caches of the project gone, base image there" is `cold`; `layers` is what a new base image
costs on a machine that is in use.

Progress goes to standard error, the table to standard output; FOLDER gets `compare.md`, the raw
numbers (`compare.json`) and plots. Goals that are missed are shown, and the exit code is 0. Nothing
but what this script made is removed from the engine; the build cache it leaves is the engine's to
collect.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import overhead  # noqa: E402
from tasks.engine import base, sbom, wheelhouse  # noqa: E402
from tasks.engine.checkout import Checkout  # noqa: E402
from tasks.engine.run import Run  # noqa: E402

LABEL = "seatrial.benchmark"
CHANGED = "app/todo/views.py"
LISTINGS = 30
OWN_GOAL = 0.05
LAST_LINES = 40
GAPS_SHOWN = 6
SIDE_BY_SIDE = (1, 2, 4, 8)
WHEELS = (10, 50, 150)
FILES = (100, 1_000, 10_000)
SETTLED = 4.0  # seconds after which a file counts as not being written any more
_CACHE_MOUNT = re.compile(r"(type=cache,id=[a-z-]+?)(?:-[0-9]+)?(?=,)")

REFERENCE, LAYERED, TUNED, OURS = "reference", "reference-in-layers", "hand-tuned", "ours"
EVERYBODY = (REFERENCE, LAYERED, TUNED, OURS)


class Failed(Exception):  # noqa: N818
    """A run ended with another code than 0."""


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


# --- the contenders ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A run: its seconds, and from when to when it was."""

    seconds: float
    began: float
    ended: float


@dataclass
class Contender:
    """A way to a release, in a clone of its own."""

    name: str
    folder: Path
    command: tuple[str, ...]
    clean_command: tuple[str, ...]
    base_image: str
    usual_base: bool = True  # ours finds it by itself then, as for its users

    def run(self, *command: str, **variables: str) -> Timed:
        """Run the release, or `command`; raises Failed unless it ends with 0."""
        argv = command or self.command
        began, clock = time.time(), time.monotonic()
        ended = subprocess.run(
            argv,
            cwd=self.folder,
            env={**self.environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        seconds = time.monotonic() - clock
        if ended.returncode:
            last = "\n".join(ended.stdout.splitlines()[-LAST_LINES:])
            raise Failed(f"{self.name}: {' '.join(argv)} ended with {ended.returncode}\n{last}")
        return Timed(seconds, began, began + seconds)

    def environment(self) -> dict[str, str]:
        """Return what its commands see."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHON": sys.executable}
        if self.name != OURS or not self.usual_base:
            own["BASE_IMAGE"] = self.base_image
        return {**overhead.as_for_users(os.environ), **own}

    def clean(self) -> None:
        """Remove what it made."""
        self.run(*self.clean_command)

    def change(self) -> None:
        """Change a line of the application, as it never was before."""
        with (self.folder / CHANGED).open("a", encoding="utf-8") as file:
            file.write(f"# {time.time_ns()}\n")

    def rename_cache_mounts(self) -> None:
        """Have the builds use cache mounts that nobody has used."""
        renamed = rf"\1-{time.time_ns()}"  # alike in all files, which share them
        for path in self.folder.glob("compose/*/Dockerfile"):
            text = path.read_text(encoding="utf-8")
            path.write_text(_CACHE_MOUNT.sub(renamed, text), encoding="utf-8")


@dataclass
class Arena:
    """The clones, all in one folder that goes at the end, and the base images made for them."""

    folder: Path
    base_image: str
    contenders: dict[str, Contender] = field(default_factory=dict)
    bases: int = 0

    def contender(self, name: str, number: int = 0) -> Contender:
        """Return a contender; its clone is made when it is first asked for."""
        title = f"{name}-{number}" if number else name
        if title not in self.contenders:
            command, clean = _COMMANDS[name]
            clone = self.folder / title
            _output("git", "clone", "--quiet", str(ROOT), str(clone))
            self.contenders[title] = Contender(name, clone, command, clean, self.base_image)
        return self.contenders[title]

    def fresh_base(self, contender: Contender) -> None:
        """Have a contender start from a base image with a layer that was never there before."""
        self.bases += 1
        name = f"seatrial-benchmark/base:{os.getpid()}-{self.bases}"
        recipe = f"FROM {self.base_image}\nRUN echo {time.time_ns()} >/etc/benchmark\n"
        # From a folder: of a recipe on its standard input buildx leaves a copy in /tmp.
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Dockerfile").write_text(recipe, encoding="utf-8")
            _output("docker", "build", "--quiet", "--label", f"{LABEL}={os.getpid()}",
                    "--tag", name, folder)  # fmt: skip
        contender.base_image, contender.usual_base = name, False

    def usual_base(self) -> None:
        """Have all start from the usual base image and Dockerfiles again."""
        for contender in self.contenders.values():
            contender.base_image, contender.usual_base = self.base_image, True
            _output("git", "-C", str(contender.folder), "checkout", "--quiet", "--", ".")

    def close(self) -> None:
        """Remove everything from the engine that was made here."""
        for contender in self.contenders.values():
            tell(f"removing what {contender.folder.name} made ...")
            try:
                contender.clean()
            except Failed as failure:
                tell(str(failure))
        label = f"label={LABEL}={os.getpid()}"
        images = _output("docker", "image", "ls", "--quiet", "--filter", label).split()
        if images:
            _output("docker", "image", "rm", "--force", *sorted(set(images)))


_MAKE = ("make", "--directory=benchmarks/reference")
_COMMANDS = {
    REFERENCE: (_MAKE, (*_MAKE, "clean")),
    LAYERED: ((*_MAKE, "DEPENDENCIES=in-layers"), (*_MAKE, "clean")),
    TUNED: (("benchmarks/hand-tuned.sh",), ("benchmarks/hand-tuned.sh", "clean")),
    OURS: (("invoke", "release.acceptance"), ("invoke", "clean")),
}


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


# --- what is compared ----------------------------------------------------------------------------


@dataclass
class Case:
    """What is measured in turns. `seconds` has those of each round, by contender.

    `goals` says how many times as fast as another ours is to be, at least.
    """

    name: str
    title: str
    goals: Mapping[str, float]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, other: str) -> list[float]:
        """Return, pair by pair, how many times as fast as the other ours was."""
        pairs = zip(self.seconds[other], self.seconds[OURS], strict=True)
        return [others / ours for others, ours in pairs]

    def rows(self) -> Iterator[str]:
        """Yield the rows of the table."""
        for name, values in self.seconds.items():
            ratio = statistics.median(self.ratios(name))
            verdict = ""
            if name in self.goals:
                met = "met" if ratio >= self.goals[name] else "**missed**"
                verdict = f"at least {self.goals[name]:g}: {met}"
            shown = "" if name == OURS else f"{ratio:.2f}"
            yield f"| {self.title} | {name} | {_spread(values)} | {shown} | {verdict} |"


@dataclass
class Own:
    """The time of our own, of the runs of ours: by run, the stretches in which nobody waited."""

    runs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, folder: Path, timed: Timed) -> None:
        """Add a run that just ended."""
        newest = max((folder / "target" / "runs").iterdir())
        record = json.loads((newest / "run.json").read_text(encoding="utf-8"))
        waits = [json.loads(line) for line in (newest / "waits.jsonl").read_text().splitlines()]
        gaps: list[dict[str, Any]] = []
        until, before = timed.began, "the start"
        for began, ended, whom, stage in sorted(waits):
            what = f"{whom} of {stage or 'the run'}"
            if began > until:
                gaps.append(_gap(until - timed.began, began - until, before, what))
            if ended > until:
                until, before = ended, what
        gaps.append(_gap(until - timed.began, timed.ended - until, before, "the end"))
        self.runs.append(
            {
                "seconds": timed.seconds,
                "own": sum(gap["seconds"] for gap in gaps),
                "gaps": sorted(gaps, key=lambda gap: -gap["seconds"]),
                "stages": record["stages"],
            }
        )

    def rows(self) -> Iterator[str]:
        """Yield the row of the table."""
        seconds = [run["own"] for run in self.runs]
        share = statistics.median(run["own"] / run["seconds"] for run in self.runs)
        met = "met" if share <= OWN_GOAL else "**missed**"
        yield (
            f"| not in the engine or in tests | ours | {_spread(seconds)} "
            f"| {share:.3f} | at most {OWN_GOAL:g}: {met} |"
        )

    def profile(self) -> Iterator[str]:
        """Yield, of the median run, what its stages took and where the own time is."""
        run = sorted(self.runs, key=lambda run: run["own"])[len(self.runs) // 2]
        yield f"\nOf a run of {run['seconds']:.2f} s after one line changed, {run['own']:.2f} s are"
        yield "the collection's own; the longest stretches of it:\n"
        yield "| at | seconds | after | before |\n|---|---|---|---|"
        for gap in run["gaps"][:GAPS_SHOWN]:
            yield f"| {gap['at']:.2f} | {gap['seconds']:.3f} | {gap['after']} | {gap['before']} |"
        yield "\n| stage | seconds |\n|---|---|"
        for stage in run["stages"]:
            yield f"| `{stage['name']}` | {stage['seconds']:.2f} |"


def _gap(at: float, seconds: float, after: str, before: str) -> dict[str, Any]:
    return {"at": at, "seconds": max(seconds, 0.0), "after": after, "before": before}


def _spread(values: Sequence[float]) -> str:
    return " | ".join(f"{f:.2f}" for f in (min(values), statistics.median(values), max(values)))


@dataclass
class Results:
    """All that was measured."""

    about: list[str]
    cases: list[Case] = field(default_factory=list)
    own: Own = field(default_factory=Own)
    listing: list[overhead.Comparison] = field(default_factory=list)
    scale: list[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> Iterator[str]:
        """Yield the lines of the report."""
        yield "\n".join(self.about)
        if self.cases or self.own.runs or self.listing:
            yield "\nSeconds. The ratio is the median of those of each round: other to ours, and"
            yield "ours to the other where the goal is at most something.\n"
            yield "| case | contender | min | median | max | ratio | goal |"
            yield "|---|---|---|---|---|---|---|"
        for case in self.cases:
            yield from case.rows()
        if self.own.runs:
            yield from self.own.rows()
        for comparison in self.listing:
            yield from _listing_rows(comparison)
        if self.own.runs:
            yield from self.own.profile()
        for what in dict.fromkeys(row["what"] for row in self.scale):
            rows = [row["figures"] for row in self.scale if row["what"] == what]
            yield f"\n{what}:\n"
            yield f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}"
            for row in rows:
                yield f"| {' | '.join(f'{figure:g}' for figure in row.values())} |"

    def raw(self) -> dict[str, Any]:
        """Return all numbers."""
        return {
            "about": self.about,
            "cases": {case.name: case.seconds for case in self.cases},
            "own": self.own.runs,
            "list": [{"ours": one.ours, "bare": one.others} for one in self.listing],
            "scale": self.scale,
        }


def _listing_rows(comparison: overhead.Comparison) -> Iterator[str]:
    pairs = zip(comparison.ours, comparison.others, strict=True)
    ratio = statistics.median(ours / other for ours, other in pairs)
    goal = comparison.goal or 0
    met = "met" if ratio <= goal else "**missed**"
    yield f"| {comparison.title} | {comparison.names[1]} | {_spread(comparison.others)} | | |"
    yield (
        f"| {comparison.title} | ours | {_spread(comparison.ours)} "
        f"| {ratio:.2f} | at most {goal:g}: {met} |"
    )


# --- the cases -----------------------------------------------------------------------------------


@dataclass
class Benchmark:
    """Runs the cases and gathers the results."""

    arena: Arena
    rounds: int
    results: Results

    def nothing(self) -> None:
        """Nothing changed since an accepted run."""

        def environment_up(contender: Contender) -> None:
            if contender.name != OURS:
                contender.run(*contender.command, "test")

        case = Case("nothing", "nothing changed", {REFERENCE: 25})
        self._in_turns(case, (REFERENCE, LAYERED, OURS), environment_up)

    def change(self) -> None:
        """One line of the application changed."""
        case = Case("change", "one line changed", {REFERENCE: 4, TUNED: 1})
        own = self.results.own
        self._in_turns(case, EVERYBODY, Contender.change, lambda c, t: own.add(c.folder, t))

    def layers(self) -> None:
        """No layer is in the cache."""

        def prepare(contender: Contender) -> None:
            contender.clean()
            self.arena.fresh_base(contender)

        case = Case("layers", "no layer cached", {REFERENCE: 1.3})
        self._in_turns(case, EVERYBODY, prepare, warm=False)
        self.arena.usual_base()

    def cold(self) -> None:
        """Nothing is in any cache."""

        def prepare(contender: Contender) -> None:
            contender.clean()
            self.arena.fresh_base(contender)
            contender.rename_cache_mounts()

        case = Case("cold", "all caches gone", {REFERENCE: 1.3})
        self._in_turns(case, EVERYBODY, prepare, warm=False)
        self.arena.usual_base()

    def list(self) -> None:
        """`invoke --list`."""
        tell("list ...")
        self.results.listing += overhead.listing(LISTINGS)

    def _in_turns(
        self,
        case: Case,
        names: Sequence[str],
        prepare: Callable[[Contender], None],
        ended: Callable[[Contender, Timed], None] = lambda _, __: None,
        *,
        warm: bool = True,
    ) -> None:
        """Measure a case; `ended` is told of each run of ours."""
        contenders = [self.arena.contender(name) for name in names]
        if warm:
            for contender in contenders:
                tell(f"{case.name}: {contender.name}, one run to warm up ...")
                contender.run()
        for number in range(1, self.rounds + 1):
            for contender in contenders:
                prepare(contender)
                timed = contender.run()
                case.seconds.setdefault(contender.name, []).append(timed.seconds)
                tell(f"{case.name}, round {number}: {contender.name} {timed.seconds:.2f} s")
                if contender.name == OURS:
                    ended(contender, timed)
        self.results.cases.append(case)

    # --- how cost grows ---

    def scale(self) -> None:
        """Releases side by side, wheels, files."""
        self._releases()
        self._wheels()
        self._files()

    def _add(self, what: str, **figures: float) -> None:
        tell(f"scale: {what}: " + ", ".join(f"{k} {v:g}" for k, v in figures.items()))
        named = {name.replace("_", " "): round(value, 4) for name, value in figures.items()}
        self.results.scale.append({"what": what, "figures": named})

    def _releases(self) -> None:
        tell("scale: one run to warm up ...")
        self.arena.contender(OURS).run()
        for count in SIDE_BY_SIDE:
            clones = [self.arena.contender(OURS, number) for number in range(count)]
            began = time.monotonic()
            with tempfile.TemporaryDirectory(dir=self.arena.folder) as logs:
                started = [_start(clone, Path(logs, f"{n}.log")) for n, clone in enumerate(clones)]
                with _sampled([process.pid for process in started]) as samples:
                    ends = [os.wait4(process.pid, 0) for process in started]
                seconds = time.monotonic() - began
                for number, (process, (_, status, _usage)) in enumerate(
                    zip(started, ends, strict=True)
                ):
                    process.returncode = os.waitstatus_to_exitcode(status)
                    if process.returncode:
                        last = Path(logs, f"{number}.log").read_text(errors="replace")
                        raise Failed(f"release {number} of {count} at a time failed\n{last}")
            peaks = [usage.ru_maxrss / 1024 for _, _, usage in ends]
            self._add(
                "Releases from as many checkouts at the same time, nothing spared (`FRESH=1`); "
                "memory of all clients at a time, and of the largest process, in MiB",
                releases=count,
                seconds=round(seconds, 1),
                releases_per_minute=round(60 * count / seconds, 2),
                memory=round(max(samples, default=0)),
                largest_process=round(max(peaks)),
            )

    def _wheels(self) -> None:
        for count in WHEELS:
            took: dict[str, list[float]] = {}
            for _ in range(self.rounds):
                with tempfile.TemporaryDirectory(dir=self.arena.folder) as folder:
                    checkout = Checkout(Path(folder), "benchmark", "benchmark")
                    _make_wheels(wheelhouse.export_folder(checkout), count)
                    for step in (wheelhouse.collect, wheelhouse.verified, wheelhouse.lay_out):
                        began = time.monotonic()
                        house = step(checkout)
                        took.setdefault(step.__name__, []).append(time.monotonic() - began)
                    began = time.monotonic()
                    sbom.of(house)
                    took.setdefault("bill of materials", []).append(time.monotonic() - began)
            medians = {name: 1000 * statistics.median(values) for name, values in took.items()}
            self._add("A wheelhouse, milliseconds", dependencies=count, **medians)

    def _files(self) -> None:
        clone = self.arena.contender(OURS)
        made = clone.folder / "app" / "made"
        there = sum(path.is_file() for path in (clone.folder / "app").rglob("*"))
        for count in FILES:
            for number in range(there, count):
                path = made / f"{number // 100}" / f"{number}.py"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"NUMBER = {number}\n" * 50, encoding="utf-8")
            time.sleep(SETTLED)
            first = clone.run("invoke", "plan").seconds
            again = [clone.run("invoke", "plan").seconds for _ in range(self.rounds)]
            self._add(
                "`invoke plan`, seconds: the first after files were added, and then",
                files=count,
                first=round(first, 3),
                then=round(statistics.median(again), 3),
            )
        shutil.rmtree(made)


def _start(clone: Contender, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            clone.command,
            cwd=clone.folder,
            env={**clone.environment(), "FRESH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@contextlib.contextmanager
def _sampled(pids: Sequence[int]) -> Iterator[list[float]]:
    """Yield samples, twice a second, of the MiB that processes and all below them hold together."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.5):
            samples.append(_resident(set(pids)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _resident(ours: set[int]) -> float:
    """Return the proportional set size, in MiB, of these processes and their descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            parents[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = set(ours)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    total = 0
    for pid in found:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(kib) for kib in re.findall(r"^Pss: +(\d+)", text, re.MULTILINE))
    return total / 1024


def _make_wheels(export: Path, dependencies: int) -> None:
    wheels = {
        "application": ["todo_backend-1.0-py3-none-any.whl"],
        "dependencies": [f"d{n}-1.{n}-py3-none-any.whl" for n in range(dependencies)],
    }
    for part, names in wheels.items():
        (export / part).mkdir(parents=True)
        for name in names:
            title, version, *_ = name.split("-")
            with zipfile.ZipFile(export / part / name, "w") as wheel:
                about = f"Metadata-Version: 2.1\nName: {title}\nVersion: {version}\n"
                wheel.writestr(f"{title}/__init__.py", f'"""{title}"""\n')
                wheel.writestr(f"{title}-{version}.dist-info/METADATA", about)


# --- what comes of it ----------------------------------------------------------------------------


def plots(results: Results, folder: Path) -> None:
    """Draw the cases, and how cost grows; without matplotlib, say how to get it."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        tell(f"no plot, matplotlib is missing: pip --python {sys.executable} install matplotlib")
        return
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    if results.cases:
        figure, axes = pyplot.subplots(
            len(results.cases), 1, figsize=(8, 0.6 + 1.3 * len(results.cases)), squeeze=False
        )
        for axis, case in zip(axes[:, 0], results.cases, strict=True):
            _draw_case(axis, case)
        axes[-1, 0].set_xlabel("seconds: median, and each run")
        _save(figure, folder / "compare.png")
    kinds = list(dict.fromkeys(row["what"] for row in results.scale))
    if kinds:
        figure, axes = pyplot.subplots(
            1, len(kinds), figsize=(4.4 * len(kinds), 4.2), squeeze=False
        )
        for axis, kind in zip(axes[0], kinds, strict=True):
            title = kind.split(":")[0].split(" (")[0].replace("`", "")
            axis.set_title(title, loc="left", fontsize=8)
            _draw_growth(axis, [r["figures"] for r in results.scale if r["what"] == kind])
        _save(figure, folder / "scale.png")


_COLOURS = {REFERENCE: "#9aa5b1", LAYERED: "#c3cad2", TUNED: "#6fa8c9", OURS: "#1f6f4a"}


def _draw_case(axis: Any, case: Case) -> None:
    for place, (name, values) in enumerate(reversed(case.seconds.items())):
        median = statistics.median(values)
        axis.barh(place, median, color=_COLOURS[name], height=0.7)
        axis.plot(values, [place] * len(values), "|", color="black", markersize=9)
        axis.annotate(
            f"{median:.1f} s", (max(values), place), (5, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(range(len(case.seconds)), reversed(case.seconds))
    axis.set_xlim(0, 1.12 * max(map(max, case.seconds.values())))
    axis.set_title(case.title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_growth(axis: Any, rows: list[dict[str, float]]) -> None:
    size, *figures = rows[0]
    for name in figures:
        axis.plot([row[size] for row in rows], [row[name] for row in rows], "o-", label=name)
        for row in rows:
            axis.annotate(
                f"{row[name]:.3g}", (row[size], row[name]), (0, 4),
                textcoords="offset points", ha="center", fontsize=7,
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([row[size] for row in rows], [f"{row[size]:g}" for row in rows])
    axis.minorticks_off()
    axis.set_yticks([])
    axis.set_xlabel(size)
    axis.margins(x=0.08, y=0.1)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def write(results: Results, folder: Path) -> None:
    """Write what was measured, also if not all was: report, raw numbers, plots."""
    report = "\n".join(results.markdown())
    (folder / "compare.md").write_text(report + "\n", encoding="utf-8")
    raw = json.dumps(results.raw(), indent=1)
    (folder / "compare.json").write_text(raw + "\n", encoding="utf-8")
    print(report)
    plots(results, folder)


def found_base() -> str:
    """Return the name of the image that ours starts from; it is made, if need be."""
    invoke = str(Path(sys.executable).with_name("invoke"))
    subprocess.run(
        [invoke, "build.base"], cwd=ROOT, check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    environment = os.environ.get("INVOKE_ENV", "local")
    with Run(ROOT, environment, [], os.environ, dry=False, changes=False) as run:
        name = base.find(run.tools)
    if name is None:
        raise Failed("there is no base image")
    return name


CASES: dict[str, Callable[[Benchmark], None]] = {
    "nothing": Benchmark.nothing,
    "change": Benchmark.change,
    "layers": Benchmark.layers,
    "cold": Benchmark.cold,
    "list": Benchmark.list,
    "scale": Benchmark.scale,
}


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="of each case (5)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "target" / "benchmarks", metavar="FOLDER"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = Results([*overhead.machine(), f"{options.rounds} rounds, in turns"])
    failure = ""
    try:
        with tempfile.TemporaryDirectory(prefix="compare-") as folder:
            arena = Arena(Path(folder), found_base())
            benchmark = Benchmark(arena, options.rounds, results)
            try:
                for name in options.only or CASES:
                    CASES[name](benchmark)
            finally:
                arena.close()
    except Failed as error:
        failure = str(error)
    finally:
        write(results, options.out)
    if failure:
        sys.exit(failure)


if __name__ == "__main__":
    main()
