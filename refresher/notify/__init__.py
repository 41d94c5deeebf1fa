"""Who is told when a target changes for the worse or the better.

news        what there is to tell, and what was told: pure
apprise     one notice to one Apprise URL
lane        an Apprise URL with its own thread, queue and retries
notifier    finds the news and hands each to every lane, once
heartbeat   tells a dead man's switch that all is well
"""

from refresher.notify.apprise import require, scheme, send
from refresher.notify.heartbeat import HEARTBEAT_SECONDS, Heartbeat, warnings
from refresher.notify.lane import Outcome
from refresher.notify.news import TEST, Kind, Notice, news, told, troubles
from refresher.notify.notifier import Notifier

__all__ = [
    "HEARTBEAT_SECONDS",
    "TEST",
    "Heartbeat",
    "Kind",
    "Notice",
    "Notifier",
    "Outcome",
    "news",
    "require",
    "scheme",
    "send",
    "told",
    "troubles",
    "warnings",
]
