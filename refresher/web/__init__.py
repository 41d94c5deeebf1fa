"""The status page: rendered here, with one script that keeps it fresh, and nothing from elsewhere.

words      times and failures as people say them
standing   one word and one colour for a target
fleet      which targets are shown, soonest trouble first
gauge      remaining life as a bar
plot       remaining life over time
coming     what comes next
facts      what is known of one target
runs       its history
pages      the HTML
"""

from refresher.web.fleet import STATES, Filter
from refresher.web.pages import Process, asset, fleet_page, missing_page, target_page

__all__ = [
    "STATES",
    "Filter",
    "Process",
    "asset",
    "fleet_page",
    "missing_page",
    "target_page",
]
