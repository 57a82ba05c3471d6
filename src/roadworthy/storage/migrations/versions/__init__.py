"""One file per revision, named in order. ``storage/schema.py`` lists them."""
