"""The papers of both reading lists as plain data, readable without loading any network."""

from unlabeled.catalogue.cards import Card, card, cards

__all__ = ["Card", "card", "cards"]
