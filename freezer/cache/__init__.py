"""The forward cache: a frozen prefix's outputs, kept and replayed, bit for bit. See ``docs/decisions/0005``."""

from freezer.cache.cache import ForwardCache
from freezer.cache.cut import Cut
from freezer.cache.draws import draw_generator, draw_of
from freezer.cache.settings import CacheSettings

__all__ = ["CacheSettings", "Cut", "ForwardCache", "draw_generator", "draw_of"]
