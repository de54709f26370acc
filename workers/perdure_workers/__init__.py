"""The composition root: worker, plugin, command line, dev server."""
