"""The demo: a real run of the example app across an approval and a killed worker, checked and not only shown."""

from perdure_workers.demo.story import play

__all__ = ["play"]
