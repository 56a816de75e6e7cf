"""Leave out what the last layer computes for nobody, which changes no answer."""

from __future__ import annotations

from fewer.core.decision import Decision, Site, View

__all__ = ["freeze_unread"]


def freeze_unread(view: View) -> Decision | None:
    """Freeze all tokens but the first before the last layer; `None` anywhere else.

    For heads that read the first token and no other (`ModelSpec.reads_first_token`): there it is
    the only query.
    """
    if view.site is not Site.BEFORE or view.layer != view.num_layers - 1:
        return None
    return Decision.freeze(view.tokens.placement.column != 0)
