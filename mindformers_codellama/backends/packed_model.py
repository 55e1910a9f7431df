"""The weights the network kernel reads; `checkpoint.packed_model` says what they are, because files hold them too."""

from mindformers_codellama.checkpoint.packed_model import (
    FORMS,
    ROLES,
    SCALED_FORMS,
    PackedModel,
    part_names,
    role_columns,
    role_parts,
)

__all__ = ["FORMS", "ROLES", "SCALED_FORMS", "PackedModel", "part_names", "role_columns", "role_parts"]
