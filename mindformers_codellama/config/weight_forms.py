"""Values of the key `weights`; apart from the sections, so that a command's help does not load them."""

PACKED_FORMS = ("bfloat16", "int8", "int4")
"""Values that mean packed weights."""
WEIGHT_FORMS = ("auto", "float32", *PACKED_FORMS)
EXPORTED_FORMS = ("int8", "int4")
"""Those that exported graphs can hold, in standard operators."""
