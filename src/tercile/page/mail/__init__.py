"""The daily digest: who gets it, what is in it, and how each letter is handed over at most once."""

from tercile.page.mail.addresses import mail_address
from tercile.page.mail.bounces import Bounce, read_bounce
from tercile.page.mail.composing import Composer, Digest
from tercile.page.mail.delivery import Outcome, Sender, Unreachable
from tercile.page.mail.running import Shown, dry_run, send_due, take_bounce
from tercile.page.mail.subscribing import Choices, Subscription, ask, confirm, leave

__all__ = [
    "Bounce",
    "Choices",
    "Composer",
    "Digest",
    "Outcome",
    "Sender",
    "Shown",
    "Subscription",
    "Unreachable",
    "ask",
    "confirm",
    "dry_run",
    "leave",
    "mail_address",
    "read_bounce",
    "send_due",
    "take_bounce",
]
