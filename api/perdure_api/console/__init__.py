"""The web console: pages for people, made on the server from what the gateway says to the person who is logged in.

It has no data and no rights of its own. Pages work without JavaScript, but for what is live in them.
"""

from perdure_api.console.site import console_site

__all__ = ["console_site"]
