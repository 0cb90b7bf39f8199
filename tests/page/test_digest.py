"""Who gets a digest, when, once; what is in it; and what happens when the server or the process fails."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tercile.page.database import Database
from tercile.page.imports import Importer, draft
from tercile.page.mail import outbox, subscribing
from tercile.page.mail.delivery import Sender, Unreachable
from tercile.page.mail.message import PLACE, wording
from tercile.page.mail.running import dry_run
from tercile.page.mail.subscribing import Choices
from tercile.page.mail.times import today
from tercile.page.ranking import count_reading
from tercile.page.settings import Settings

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=BERLIN).timestamp()
DAY = 86400.0


def subscribe(database: Database, address: str = "ann@example.org", hour: int = 7, zone: str = "Europe/Berlin",
              rooms: tuple[str, ...] = (), now: float = NOON - DAY, session: int | None = None) -> int:  # fmt: skip
    with database.transaction() as rows:
        made = rows.execute(
            "INSERT INTO subscribers (address, address_key, rooms, hour, zone, session, state, since, changed) "
            "VALUES (?, ?, ?, ?, ?, ?, 'active', 0, ?)",
            (address, address.lower(), json.dumps(rooms), hour, zone, session, now),
        )
    return int(made.lastrowid or 0)


def send(database: Database, settings: Settings, now: float = NOON) -> dict[str, int]:
    sender = Sender(database, settings, lambda: now)
    try:
        return dict(asyncio.run(sender.run()).states)
    finally:
        sender.close()


def states(database: Database) -> dict[str, int]:
    return outbox.counts(database.connection())


def put(database: Database, *titles: str, room: str = "stats") -> None:
    importer = Importer(database)
    assert len(importer.store(importer.judge([draft(title, room=room) for title in titles]), "form").keys) == len(
        titles
    )


def test_one_digest_a_day_however_often_it_is_run(database: Database, settings: Settings, mailbox: Any) -> None:
    subscribe(database)
    assert [send(database, settings, NOON + 600 * run) for run in range(4)] == [{"sent": 1}, {}, {}, {}]
    assert send(database, settings, NOON + DAY) == {"sent": 1}
    assert len(mailbox.to("ann@example.org")) == 2


def test_nothing_before_the_hour_and_nothing_today_for_who_came_after_it(
    database: Database, settings: Settings
) -> None:
    subscribe(database, "late@example.org", hour=13)
    subscribe(database, "new@example.org", hour=7, now=NOON - 60)
    assert send(database, settings) == {}
    assert send(database, settings, NOON + 3600) == {"sent": 1}
    assert send(database, settings, NOON + DAY - 5 * 3600) == {"sent": 1}  # 7:00 tomorrow


def test_after_downtime_one_digest_holds_what_several_days_brought(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database)
    send(database, settings)
    put(database, "A first paper about rain in spring", "Another paper, on wind over hills")
    assert send(database, settings, NOON + 5 * DAY) == {"sent": 1}
    text = mailbox.taken[-1][2].get_body(("plain",)).get_content()
    assert "A first paper about rain in spring" in text and "Another paper, on wind over hills" in text
    put(database, "Third one: on snow and its many forms")
    send(database, settings, NOON + 6 * DAY)
    text = mailbox.taken[-1][2].get_body(("plain",)).get_content()
    assert "snow and its many forms" in text and "rain in spring" not in text


@pytest.mark.parametrize(
    ("day", "hour", "due"),
    [
        ("2026-03-29", 2, "2026-03-29T03:00:00+02:00"),  # the clock skips 2:00 to 3:00
        ("2026-10-25", 2, "2026-10-25T02:00:00+02:00"),  # 2:00 comes twice; the first counts
        ("2026-06-01", 23, "2026-06-01T23:00:00+02:00"),
    ],
)
def test_the_hour_is_that_of_the_readers_clock_when_the_clock_changes(day: str, hour: int, due: str) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=BERLIN).timestamp()
    found = today(noon, "Europe/Berlin", hour)
    assert found.day == day and found.due == datetime.fromisoformat(due).timestamp()


def test_moving_west_gives_no_second_digest_for_an_earlier_date(database: Database, settings: Settings) -> None:
    number = subscribe(database, zone="Asia/Tokyo", hour=0, now=0)
    now = datetime(2026, 3, 10, 1, 0, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
    assert send(database, settings, now) == {"sent": 1}
    with database.transaction() as rows:
        rows.execute("UPDATE subscribers SET zone = 'America/Los_Angeles' WHERE id = ?", (number,))
    assert send(database, settings, now + 3600) == {}  # there it is still the 9th
    assert send(database, settings, now + DAY) == {}  # and now the 10th, which is done
    assert send(database, settings, now + 2 * DAY) == {"sent": 1}


def test_new_papers_of_chosen_rooms_come_first_ordered_by_tags(database: Database, settings: Settings) -> None:
    with database.transaction() as rows:
        rows.execute("INSERT INTO sessions (id, token_hash, created, seen) VALUES (5, x'00', '', '')")
        rows.execute("INSERT INTO tags VALUES (5, 'iqn', 'liked', '')")
    put(database, "Reinforcement learning of quantiles of returns", "Bread, its crust and its crumb", room="quantiles")
    put(database, "Not in this reader's rooms at all", room="diffusion")
    with database.transaction() as rows:
        for _ in range(3):
            count_reading(rows, "gpfq", NOON)
        count_reading(rows, "iqn", NOON)
    subscribe(database, rooms=("quantiles",), session=5)
    [letter] = dry_run(database, settings, NOON)
    assert [text.title for text in letter.digest.new] == [
        "Reinforcement learning of quantiles of returns", "Bread, its crust and its crumb",
    ]  # fmt: skip
    assert [text.key for text in letter.digest.read] == ["iqn"]
    assert len(letter.digest.suggested) == 3 and all(text.top == "quantiles" for text in letter.digest.suggested)
    assert states(database) == {}  # a dry run leaves nothing behind


def test_the_catalogues_suggestions_are_not_those_of_the_day_before(database: Database, settings: Settings) -> None:
    subscribe(database)
    seen: list[str] = []
    for day in range(4):
        [letter] = dry_run(database, settings, NOON + day * DAY)
        seen += [text.key for text in letter.digest.suggested]
        send(database, settings, NOON + day * DAY)
    assert len(seen) == len(set(seen)) == 12


def test_a_letter_has_two_parts_and_what_one_click_needs(database: Database, settings: Settings, mailbox: Any) -> None:
    subscribe(database)
    send(database, settings)
    sender, _, message = mailbox.taken[0]
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch(r"<https://papers\.example\.org/digest/leave/([\w-]{32})>", message["List-Unsubscribe"])
    assert link and re.fullmatch(r"bounces\+\d+-[0-9a-f]{16}@example\.org", sender)
    for kind in ("plain", "html"):
        assert f"/digest/leave/{link[1]}" in message.get_body((kind,)).get_content()
    assert PLACE not in message.as_string()
    assert message["From"] == "tercile <digest@example.org>" and message["To"] == "ann@example.org"
    with database.transaction() as rows:
        assert subscribing.leave(rows, link[1])
    assert send(database, settings, NOON + DAY) == {}
    stored = "\n".join(map(str, database.connection().iterdump()))
    assert link[1] not in stored  # the token itself is nowhere


def test_a_wording_filled_in_is_what_the_mail_library_would_have_written() -> None:
    token, texts = "Az09_-" * 5 + "xY", [f"{'é' * n}https://example.org/{PLACE} and {PLACE}\n.dot\n" for n in range(80)]
    for text in texts:
        made = wording("x <a@example.org>", "Ünder", text, f"<p>{text}</p>").letter("b@example.org", token, "1@x", 0.0)
        said = wording("x <a@example.org>", "Ünder", text.replace(PLACE, token), f"<p>{text}</p>".replace(PLACE, token))
        expected = said.letter("b@example.org", token, "1@x", 0.0)
        cut = re.compile(rb"={15}\d+==")
        assert cut.sub(b"", made) == cut.sub(b"", expected)
        assert max(map(len, made.splitlines())) <= 100


def test_who_leaves_between_claim_and_sending_gets_nothing(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    number = subscribe(database)

    def leave(step: str, address: str) -> None:
        with database.transaction() as rows:
            rows.execute("UPDATE subscribers SET state = 'left' WHERE id = ?", (number,))

    mailbox.answer = leave
    assert send(database, settings) == {"lapsed": 1}
    assert mailbox.taken == []


def test_a_server_that_says_later_is_asked_again_later_and_sends_once(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database)
    mailbox.answer = lambda step, address: "451 4.7.1 greylisted" if step == "RCPT" else None
    assert send(database, settings) == {"put off": 1}
    mailbox.answer = lambda step, address: None
    assert send(database, settings, NOON + 30) == {}  # not before a minute has passed
    assert send(database, settings, NOON + 90) == {"sent": 1}


def test_a_letter_put_off_past_midnight_lapses_and_tomorrow_has_its_content(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    put(database, "On the patience of mail servers")
    subscribe(database)
    mailbox.answer = lambda step, address: "452 4.2.2 full"
    send(database, settings)
    mailbox.answer = lambda step, address: None
    assert send(database, settings, NOON + DAY - 6 * 3600) == {"lapsed": 1}  # 6:00: the day is over, 7:00 not yet
    assert send(database, settings, NOON + DAY) == {"sent": 1}
    assert "patience of mail servers" in mailbox.taken[0][2].get_body(("plain",)).get_content()


def test_refused_for_good_is_not_tried_again_and_three_dead_letters_suspend(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database)
    mailbox.answer = lambda step, address: "550 5.1.1 no such user"
    for day in range(3):
        assert send(database, settings, NOON + day * DAY) == {"refused": 1}
    assert send(database, settings, NOON + 3 * DAY) == {}
    assert database.connection().execute("SELECT state FROM subscribers").fetchone()[0] == "suspended"


def test_refusal_by_policy_does_not_count_against_the_reader(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database)
    mailbox.answer = lambda step, address: "550 5.7.1 looks like spam" if step == "DATA" else None
    for day in range(5):
        assert send(database, settings, NOON + day * DAY) == {"refused": 1}
    assert database.connection().execute("SELECT state FROM subscribers").fetchone()[0] == "active"


def test_without_a_server_nothing_is_lost(database: Database, settings: Settings) -> None:
    for number in range(30):
        subscribe(database, f"r{number}@example.org")
    with pytest.raises(Unreachable, match="wait for the next run"):
        send(database, replace(settings, smtp_port=1))
    assert states(database) == {"due": 30}
    assert send(database, settings, NOON + 60) == {"sent": 30}


def test_connections_are_used_again_and_are_few(database: Database, settings: Settings, mailbox: Any) -> None:
    for number in range(50):
        subscribe(database, f"r{number}@example.org")
    assert send(database, settings) == {"sent": 50}
    assert mailbox.connections == 2
    assert len({to for _, to, _ in mailbox.taken}) == 50


def claimed(database: Database, now: float, worker: str = "w", boot: str = "this") -> list[outbox.Letter]:
    with database.transaction() as rows:
        outbox.plan(rows, now)
        return outbox.claim(rows, worker, now, 100, boot)


def state(database: Database, letter: outbox.Letter) -> str:
    return str(database.connection().execute("SELECT state FROM letters WHERE id = ?", (letter.id,)).fetchone()[0])


def test_a_claim_of_a_dead_worker_is_due_again_and_a_handed_letter_never(database: Database) -> None:
    subscribe(database, "a@example.org")
    subscribe(database, "b@example.org")
    first, second = claimed(database, NOON)
    rows = database.connection()
    assert outbox.hand(rows, first, "w", b"1", [], NOON)
    assert outbox.recover(rows, NOON + outbox.LEASE - 1, "this") == (0, 0)
    assert outbox.recover(rows, NOON + outbox.LEASE + 1, "this") == (1, 0)
    assert (state(database, first), state(database, second)) == ("handed", "due")
    assert outbox.recover(rows, NOON + outbox.HANDING + 1, "this") == (0, 1)
    assert state(database, first) == "unconfirmed"
    assert claimed(database, NOON + outbox.HANDING + 2, "v") == [second]


def test_after_the_machine_went_down_a_claim_counts_as_handed_over(database: Database) -> None:
    subscribe(database)
    [letter] = claimed(database, NOON, boot="before")
    assert outbox.recover(database.connection(), NOON + 60, "after") == (0, 1)
    assert state(database, letter) == "unconfirmed"


def test_a_worker_that_lost_its_lease_may_not_hand_over(database: Database) -> None:
    subscribe(database)
    [letter] = claimed(database, NOON, "slow")
    rows = database.connection()
    outbox.recover(rows, NOON + 60, "this")
    [again] = claimed(database, NOON + 60, "quick")
    assert again.id == letter.id
    assert not outbox.hand(rows, letter, "slow", b"1", [], NOON + 61)
    assert outbox.hand(rows, again, "quick", b"2", [], NOON + 61)
    assert not outbox.settle(rows, letter, "slow", "sent", "", NOON + 62)


def test_an_unconfirmed_digest_comes_back_tomorrow_as_content(database: Database) -> None:
    put(database, "Whether it arrived nobody knows")
    number = subscribe(database)
    [letter] = claimed(database, NOON)
    rows = database.connection()
    outbox.hand(rows, letter, "w", b"1", [], NOON)
    outbox.settle(rows, letter, "w", "unconfirmed", "", NOON)
    assert rows.execute("SELECT since FROM subscribers WHERE id = ?", (number,)).fetchone()[0] == 0
    [tomorrow] = claimed(database, NOON + DAY)
    assert tomorrow.since == 0 and tomorrow.upto == 1


def ask(database: Database, address: str = "ann@example.org", hour: str = "7", now: float = NOON, **more: Any) -> None:
    with database.transaction() as rows:
        subscribing.ask(rows, address, Choices.checked(more.get("rooms", []), hour, "UTC", more.get("session")), now)


def link_in(mailbox: Any, address: str = "ann@example.org") -> str:
    text = mailbox.to(address)[-1].get_body(("plain",)).get_content()
    return str(re.search(r"/digest/confirm/([\w-]{32})", text)[1])  # type: ignore[index]


def test_only_the_link_in_the_letter_subscribes_and_only_once(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    ask(database, rooms=["stats"])
    assert send(database, settings) == {"sent": 1}
    token = link_in(mailbox)
    assert database.connection().execute("SELECT count(*) FROM subscribers").fetchone()[0] == 0
    with database.transaction() as rows:
        made = subscribing.confirm(rows, token, NOON + 60)
        assert made and made.choices.rooms == ("stats",) and made.state == "active"
        assert subscribing.confirm(rows, token, NOON + 61) is None
        assert subscribing.of_token(rows, token) == made
        assert subscribing.confirm(rows, "A" * 32, NOON) is None


def test_a_link_is_too_old_after_two_days(database: Database, settings: Settings, mailbox: Any) -> None:
    ask(database)
    send(database, settings)
    with database.transaction() as rows:
        assert subscribing.confirm(rows, link_in(mailbox), NOON + 2 * DAY + 1) is None


def test_asking_does_the_same_for_every_address_and_changes_nobodys_choices(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database, "known@example.org", hour=3, now=NOON)
    statements: dict[str, list[str]] = {}
    for address in ("known@example.org", "unknown@example.org"):
        seen: list[str] = []
        database.connection().set_trace_callback(seen.append)
        ask(database, address, hour="9")
        database.connection().set_trace_callback(None)
        statements[address] = [re.sub(r"'[^']*'|[\d.]+", "?", line.replace("unknown", "known")) for line in seen]
    assert statements["known@example.org"] == statements["unknown@example.org"]
    assert send(database, settings) == {"sent": 2}
    texts = [
        re.sub(r"[\w-]{32}", "", mailbox.to(address)[0].get_body(("plain",)).get_content()) for address in statements
    ]
    assert texts[0] == texts[1]
    assert database.connection().execute("SELECT hour FROM subscribers").fetchone()[0] == 3
    with database.transaction() as rows:
        subscribing.confirm(rows, link_in(mailbox, "known@example.org"), NOON + 60)
    assert [tuple(row) for row in database.connection().execute("SELECT hour, state FROM subscribers")] == [
        (9, "active")
    ]


def test_nobody_can_have_more_than_three_letters_a_day_sent_to_an_address(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    for spelling in ("ann@example.org", "ANN@example.org", "ann@example.org", "Ann@EXAMPLE.org", "ann@example.org"):
        ask(database, spelling)
    assert send(database, settings) == {"sent": 3}
    ask(database, now=NOON + DAY + 1)
    assert send(database, settings, NOON + DAY + 1) == {"sent": 1}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "an address is needed"),
        ("ann", "a name, an @ and a domain"),
        ("ann@", "a name, an @ and a domain"),
        ("ann@localhost", "no domain"),
        ("ann@exa mple.org", "no spaces"),
        ("ann@example.org\r\nBcc: all@example.org", "no spaces"),
        ("ann@gmial.com", "did you mean ann@gmail.com"),
        ("a..b@example.org", "single dots"),
        ('"ann"@example.org', "letters, digits and single dots"),
        ("ann@[127.0.0.1]", "no domain"),
        ("ann@127.0.0.1", "no domain"),
        ("ann@example.org, bob@example.org", "no spaces"),
        ("x" * 65 + "@example.org", "can't be used"),
        ("x@" + "y" * 260 + ".org", "at most 254"),
    ],
)
def test_a_mistyped_address_is_told_what_is_wrong(database: Database, typed: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ask(database, typed)
    assert states(database) == {}


def test_who_left_is_forgotten_after_two_days_with_all_letters(database: Database, settings: Settings) -> None:
    number = subscribe(database)
    send(database, settings)
    with database.transaction() as rows:
        rows.execute("UPDATE subscribers SET state = 'left', changed = ? WHERE id = ?", (NOON, number))
        subscribing.forget(rows, NOON + DAY)
        assert rows.execute("SELECT count(*) FROM subscribers").fetchone()[0] == 1
        subscribing.forget(rows, NOON + 3 * DAY)
    assert states(database) == {} and "ann@example.org" not in "\n".join(database.connection().iterdump())


REPORT = """From: MAILER-DAEMON@mx.example.net
To: {to}
Subject: Undelivered Mail
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

It did not work.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; ann@example.org
Action: {action}
Status: {status}
--b--
"""


def bounced(
    database: Database, settings: Settings, mailbox: Any, day: int, change: Callable[[str], str] = str, **how: str
) -> str:
    from tercile.page.mail.running import take_bounce

    send(database, settings, NOON + day * DAY)
    report = REPORT.format(to=change(mailbox.taken[-1][0]), **{"action": "failed", "status": "5.1.1", **how})
    return take_bounce(database, settings, report.encode(), NOON + day * DAY + 60)


def test_three_hard_bounces_suspend_and_one_report_counts_once(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    subscribe(database)
    said = [bounced(database, settings, mailbox, day) for day in (0, 0, 0, 1, 2)]
    assert "suspended" in said[-1] and not any("suspended" in one for one in said[:-1])
    assert send(database, settings, NOON + 3 * DAY) == {}


@pytest.mark.parametrize(
    "how", [{"status": "4.2.2"}, {"action": "delayed"}, {"status": "5.7.1"}, {"action": "delivered"}]
)
def test_soft_bounces_delays_and_policy_never_suspend(
    database: Database, settings: Settings, mailbox: Any, how: dict[str, str]
) -> None:
    subscribe(database)
    for day in range(5):
        bounced(database, settings, mailbox, day, **how)
    assert database.connection().execute("SELECT state FROM subscribers").fetchone()[0] == "active"


def test_a_forged_report_does_nothing(database: Database, settings: Settings, mailbox: Any) -> None:
    subscribe(database)
    other = {"0": "1"}
    for day in range(5):
        said = bounced(
            database,
            settings,
            mailbox,
            day,
            lambda to: re.sub(r"-(.)", lambda m: "-" + other.get(m[1], "0"), to, count=1),
        )
        assert "nothing done" in said
    assert database.connection().execute("SELECT count(*) FROM bounces").fetchone()[0] == 0


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe", b"Subject: hello\n\nnot a report", b"To: bounces+1-0000000000000000@x\n\n"]
)
def test_other_mail_to_the_bounce_address_does_nothing(database: Database, settings: Settings, raw: bytes) -> None:
    from tercile.page.mail.running import take_bounce

    assert "nothing done" in take_bounce(database, settings, raw)


def test_to_a_new_reader_the_papers_of_the_last_week_are_new(
    database: Database, settings: Settings, mailbox: Any
) -> None:
    put(database, "An old paper of the year before", "A paper of the last few days")
    with database.transaction() as rows:
        rows.execute("UPDATE papers SET added = '2026-02-01T00:00:00+00:00' WHERE id = 1")
        rows.execute("UPDATE papers SET added = '2026-03-08T00:00:00+00:00' WHERE id = 2")
    ask(database, hour="0")
    send(database, settings)
    with database.transaction() as rows:
        subscribing.confirm(rows, link_in(mailbox), NOON + 60)
    send(database, settings, NOON + DAY)
    text = mailbox.taken[-1][2].get_body(("plain",)).get_content()
    assert "the last few days" in text and "the year before" not in text


def test_a_dry_run_shows_the_letter_that_then_arrives(database: Database, settings: Settings, mailbox: Any) -> None:
    put(database, ".NET and other names that begin with a dot")
    subscribe(database)
    [shown] = dry_run(database, settings, NOON)
    send(database, settings)
    arrived = mailbox.taken[0][2]
    assert arrived["Subject"] == shown.subject
    assert re.sub(r"[\w-]{32}", "", arrived.get_body(("plain",)).get_content()) == re.sub(r"[\w-]{32}", "", shown.text)
    # Rules of the style sheet begin with dots too.
    assert "\n.item {" in arrived.get_body(("html",)).get_content()
