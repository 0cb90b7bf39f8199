"""The parts of the page; a part is a router, and this is the list of them."""

from fastapi import APIRouter

from tercile.page.routes import browse, method

#: In the order in which their addresses are tried.
ROUTERS: tuple[APIRouter, ...] = (browse.router, method.router)

__all__ = ["ROUTERS"]
