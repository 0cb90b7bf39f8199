"""The parts of the page; a part is a router, and this is the list of them."""

from fastapi import APIRouter

from tercile.page.imports import routes as imports
from tercile.page.mail import routes as mail
from tercile.page.routes import api, browse, method, operate, state, trial

#: In the order in which their addresses are tried.
ROUTERS: tuple[APIRouter, ...] = (
    browse.router,
    method.router,
    state.router,
    trial.router,
    api.router,
    operate.router,
    imports.router,
    mail.router,
)

__all__ = ["ROUTERS"]
