"""A Django application: a client for each process, a view under a lock, and a command that runs once.

Problem: Django runs in many processes, which a server forks from one that has loaded the application. Some views must
not run twice at a time for one thing, and a nightly command is started on every machine but must run on one.

Guarantee: each process has a client of its own, made at its first use, whatever was loaded before the fork. Reports of
one day are built one at a time, and the row remembers the highest fencing token: a build that slept through its lease
changes nothing. The command does its work once for each day, also when it is started on every machine at once.

On loss: nothing interrupts a thread, so a body goes on when its lock is lost; its write is refused by the row, and
``LockLost`` is raised at the end. The view answers 503 then, and 409 while somebody else builds. The command notes
its day under the lock's guard: whoever lost the lock does not note it, and the next one does the work.

Run it: ``python -m recipes.django_app``, which asks itself; needs ``django``. As a service:
``gunicorn --preload --workers 4 recipes.django_app:application``.
"""

from __future__ import annotations

import os
import threading
from datetime import date
from typing import TYPE_CHECKING

import django
from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path
from typing_extensions import override

import coord
import coord.sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.core.management import CommandParser
    from django.http.response import HttpResponseBase

PREFIX = "recipes/django"
DATABASE = os.environ.get("DJANGO_DATABASE", ":memory:")

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    MIDDLEWARE=[f"{__name__}.TryAgain"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY", "for this file alone"),
)
django.setup()


# -- store.py: the client of this process --------------------------------------------------------------------------

_clients: dict[int, coord.sync.Client] = {}
_making = threading.Lock()


def store() -> coord.sync.Client:
    """Return the client of this process; made at the first call, and anew after a fork."""
    with _making:
        if os.getpid() not in _clients:
            _clients[os.getpid()] = coord.sync.connect()
        return _clients[os.getpid()]


def _renew_lock() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent may have held it as we were forked
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


# -- models.py -----------------------------------------------------------------------------------------------------


class StaleWriter(RuntimeError):
    """Somebody with a higher token has written since: this writer lost its turn."""


class Report(models.Model):
    """A report, with the token of whoever wrote it last."""

    day: models.DateField[date, date] = models.DateField(primary_key=True)
    body: models.TextField[str, str] = models.TextField()
    fence: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta:
        """Say where it belongs, for it stands in no application's ``models.py``."""

        app_label = "recipes"

    @classmethod
    def write(cls, day: date, body: str, token: int) -> None:
        """Write the report of a day. Raises StaleWriter if a higher token was here before."""
        cls.objects.get_or_create(day=day, defaults={"body": "", "fence": 0})
        newest = cls.objects.filter(day=day, fence__lte=token)
        if not newest.update(body=body, fence=token):  # one statement: compared as it is written
            raise StaleWriter(f"{day}: token {token} is older than the last writer's")


# -- views.py ------------------------------------------------------------------------------------------------------


def build(day: date, body: str, *, timeout: float) -> int:
    """Build the report of a day; return the token it was written under. Raises LockTimeout, LockLost, StaleWriter."""
    with store().mutex(f"{PREFIX}/reports/{day}").hold(timeout=timeout) as grant:
        Report.write(day, body, grant.token)
        return grant.token


def build_now(_: HttpRequest, day: str) -> JsonResponse:
    """Build the report of a day, unless somebody does."""
    token = build(date.fromisoformat(day), f"built by process {os.getpid()}", timeout=1)
    return JsonResponse({"token": token, "process": os.getpid()})


class TryAgain:
    """Middleware that answers for losses and waits."""

    def __init__(self, answer: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._answer = answer

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer as the view does."""
        return self._answer(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> JsonResponse | None:
        """Answer for the errors of the store; the request may be sent again after each of them."""
        if isinstance(error, coord.LockTimeout):
            return JsonResponse({"error": "somebody else builds it"}, status=409)
        if isinstance(error, coord.CoordError | StaleWriter):
            return JsonResponse({"error": type(error).__name__}, status=503)
        return None


urlpatterns = [path("reports/<str:day>", build_now)]


# -- management/commands/nightly.py --------------------------------------------------------------------------------


class Command(BaseCommand):
    """``manage.py nightly 2026-11-30``, started on every machine."""

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        """Take the day."""
        parser.add_argument("day", type=date.fromisoformat)

    @override
    def handle(self, *args: object, day: date, **options: object) -> None:
        """Do the work of a day, unless it was done. Raises CommandError if the lock was lost, and what build raises."""
        done = f"{PREFIX}/done/{day}"  # not below the name of the lock, where its line is
        with store().mutex(f"{PREFIX}/nightly").hold(timeout=3600) as grant:
            if store().get(done) is not None:
                self.stdout.write("the command: done elsewhere")
                return
            build(day, "built at night", timeout=60)
            note = coord.op.put(done, str(grant.token))
            if not store().txn().when(grant.guard()).then(note).commit().succeeded:
                raise CommandError("the lock was lost: the next one does the work")
            self.stdout.write("the command: done")


# -- wsgi.py -------------------------------------------------------------------------------------------------------

application = get_wsgi_application()


def make_tables() -> None:
    """Do what migrations do in a real project."""
    with connection.schema_editor() as schema:
        schema.create_model(Report)


def main() -> None:
    make_tables()
    day, browser = date(2026, 11, 30), Client()
    print("the view:", browser.post(f"/reports/{day}").status_code)
    with store().session() as other:
        somebody = store().mutex(f"{PREFIX}/reports/{day}", session=other)
        with somebody.hold(timeout=30):
            print("while somebody else builds:", browser.post(f"/reports/{day}").status_code)
    store().delete(f"{PREFIX}/done/{day}")
    call_command(Command(), str(day))
    call_command(Command(), str(day))
    print("the report was", Report.objects.get(day=day).body)
    store().close()


if __name__ == "__main__":
    main()
