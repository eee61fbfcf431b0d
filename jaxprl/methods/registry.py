"""The methods by name. A new method is a line here."""

from __future__ import annotations

from jaxprl.errors import UserError
from jaxprl.methods.annealing import ANNEALING
from jaxprl.methods.base import Method
from jaxprl.methods.chain import CHAIN
from jaxprl.methods.hc import HC
from jaxprl.methods.hprl import HPRL
from jaxprl.methods.latent import CEBS, CEM, LATENT_HC, LEAPS
from jaxprl.methods.llm_gs import LLM_GS
from jaxprl.methods.revision import REVISIONS

_METHODS = {
    method.name: method for method in (LLM_GS, HC, ANNEALING, CHAIN, LEAPS, CEM, CEBS, LATENT_HC, HPRL, *REVISIONS)
}


def methods() -> dict[str, Method]:
    """Return all methods by name.

    Example:
      >>> methods()["hc"].summary
      'hill climbing from random programs: move to the first better of up to k neighbours, else start again'
    """
    return dict(_METHODS)


def get(name: str) -> Method:
    """Return the method of that name.

    Raises:
      UserError: there is none; the message lists all methods with a line each.
    """
    if name not in _METHODS:
        raise UserError(f"unknown method {name!r}; the methods are:\n{listing()}")
    return _METHODS[name]


def listing() -> str:
    """Return all methods with what they do, a line each."""
    width = max(map(len, _METHODS))
    return "\n".join(f"  {name:{width}}  {method.summary}" for name, method in _METHODS.items())
