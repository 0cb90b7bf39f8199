"""The parts of the page; a part is a router, and this is the list of them."""

from fastapi import APIRouter

from tercile.page.routes import api, browse, method, operate, state

#: In the order in which their addresses are tried.
ROUTERS: tuple[APIRouter, ...] = (browse.router, method.router, state.router, api.router, operate.router)

__all__ = ["ROUTERS"]
