"""The task tree: what `invoke --list` shows."""

import atexit
import gc
import sys

# Invoke loads this file as the module `tasks`, which is the package's name too: make way for it.
sys.modules.pop(__name__, None)
# Invoke has Python keep no bytecode unless told to (--write-pyc); compiling ours each time takes
# half as long as all else that happens before the first stage. Who told Python itself is obeyed.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
# Python searches for circles of objects that nobody holds each time it has made a few hundred, a
# tenth of the time in which modules are loaded that all stay: rarely is enough for a process that
# ends soon. As it ends Python searches once more, for longer than it takes to list the tasks.
gc.set_threshold(100_000)
atexit.register(gc.freeze)

from invoke.collection import Collection  # noqa: E402

from tasks import acceptance, build, publish, release, test, workflow  # noqa: E402
from tasks.stages import listings_may_be_cut_short, usage_errors_end_with_2  # noqa: E402

releases = Collection.from_module(release)
releases.add_task(workflow.acceptance, default=True)

usage_errors_end_with_2()
listings_may_be_cut_short()

namespace = Collection(test, build, releases, acceptance, publish, workflow.plan, workflow.clean)
namespace.configure({"env": "local", "plan": "release.acceptance"})
