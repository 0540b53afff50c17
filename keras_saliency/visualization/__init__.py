"""One picture per question. Nothing else in the library imports this package."""
