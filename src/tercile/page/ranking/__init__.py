"""What to show first: by what a reader tagged, and by what is read most."""

from tercile.page.ranking.readings import Visits, count_reading, most_read, weight_now
from tercile.page.ranking.rooms import ROOMS, guess_room
from tercile.page.ranking.tags import Words, rank_by_tags
from tercile.page.ranking.texts import Text, all_texts

__all__ = [
    "ROOMS",
    "Text",
    "Visits",
    "Words",
    "all_texts",
    "count_reading",
    "guess_room",
    "most_read",
    "rank_by_tags",
    "weight_now",
]
