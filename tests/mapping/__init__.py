"""Files that nobody marked, through the product: ``python -m tests.mapping`` prints the table.

Each model is exported plainly by both exporters and then changed by what people do to their files:
simplified, optimised, converted to half precision, quantised. Read in this order: ``subject`` (a model
with its reference and its exports), ``kinds`` (what becomes of a file), ``truth`` (what is right, by
numbers that the mapper never saw), ``score`` (one file, healthy and spoilt), ``table``. ``hunt`` spoils
layers of the architectures in ``wild``, for which nothing here was written.
"""
