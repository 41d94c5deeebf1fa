"""When each target has its turn.

restart   what an earlier process left behind is taken up
queue     what is due, in the order in which it should run
lanes     whose turn it is: no account may take all workers
pace      at most so many a second
checks    one proof of a credential for all targets that it stands in
ticking   the tick, the pool and the jobs beside it
"""

from refresher.scheduler.checks import CHECKS_PER_SECOND
from refresher.scheduler.restart import adopt, close_orphans, resume, take_over
from refresher.scheduler.ticking import TICK_SECONDS, Scheduler

__all__ = [
    "CHECKS_PER_SECOND",
    "TICK_SECONDS",
    "Scheduler",
    "adopt",
    "close_orphans",
    "resume",
    "take_over",
]
