"""The tasks of Long Range Arena (Tay et al. 2021, arXiv 2011.04006), one file each."""

from fewer_lra.tasks.image import Image
from fewer_lra.tasks.listops import ListOps
from fewer_lra.tasks.pathfinder import Pathfinder
from fewer_lra.tasks.retrieval import Retrieval
from fewer_lra.tasks.task import DataSpec, LRATask, Rows
from fewer_lra.tasks.text import Text

__all__ = ["TASKS", "LRATask", "Rows"]

TASKS: dict[str, type[DataSpec]] = {
    "listops": ListOps,
    "text": Text,
    "retrieval": Retrieval,
    "image": Image,
    "pathfinder": Pathfinder,
    "pathx": Pathfinder,
}
