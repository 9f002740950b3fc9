"""The errors of bestdeploy as users meet them: add a row to the file of its area."""

from error_table.checkpoints import CHECKPOINT_CASES
from error_table.commands import COMMAND_CASES
from error_table.definition import Case, Internal
from error_table.events import EVENT_CASES
from error_table.families import FAMILY_CASES
from error_table.images import IMAGE_CASES
from error_table.internal import INTERNAL
from error_table.models import MODEL_CASES
from error_table.tools import TOOL_CASES
from error_table.weighted import WEIGHTED_CASES

CASES: tuple[Case, ...] = (
    *COMMAND_CASES,
    *CHECKPOINT_CASES,
    *MODEL_CASES,
    *IMAGE_CASES,
    *EVENT_CASES,
    *FAMILY_CASES,
    *TOOL_CASES,
    *WEIGHTED_CASES,
)

__all__ = ["CASES", "INTERNAL", "Case", "Internal"]
