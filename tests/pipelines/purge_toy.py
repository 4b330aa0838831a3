"""Takes a toy dataset's source down and purges it, and kills itself with SIGKILL before the n-th rename or deletion: the moments
at which the folder's state changes.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipelines.dataset.takedown import find_impact, take_down


def main() -> None:
    root, person, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    done = 0

    def counted(call: Any) -> Any:
        def counting(*places: Any, **flags: Any) -> Any:
            nonlocal done
            done += 1
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*places, **flags)

        return counting

    os.replace, Path.unlink = counted(os.replace), counted(Path.unlink)  # type: ignore[method-assign]
    take_down(root, find_impact(root, people=[person]), purged=True)
    print(done)


if __name__ == "__main__":
    sys.exit(main())
