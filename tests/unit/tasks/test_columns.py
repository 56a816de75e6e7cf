import pandas
import pytest
from datasets import Dataset, DatasetDict

from fewer.tasks import infer
from fewer.tasks.multi_label import infer_multi_label
from fewer.tasks.question_answering import infer_question_answering
from fewer.tasks.reranking import infer_reranking
from fewer.tasks.tagging import infer_tagging

ROWS = [{"text": "a film", "label": 1}]
INFER = (infer, infer_multi_label, infer_question_answering, infer_reranking, infer_tagging)


@pytest.mark.parametrize("task_of", INFER)
@pytest.mark.parametrize("rows", [ROWS, pandas.DataFrame(ROWS), None])
def test_what_is_no_dataset_is_refused_by_its_name(task_of, rows):
    with pytest.raises(TypeError, match=rf"Dataset; got a {type(rows).__name__}.*read_rows"):
        task_of(rows)


@pytest.mark.parametrize("task_of", INFER)
def test_of_several_splits_one_must_be_chosen_and_rows_must_be_there(task_of):
    rows = Dataset.from_list(ROWS)
    with pytest.raises(TypeError, match="Choose one split"):
        task_of(DatasetDict(train=rows))
    with pytest.raises(ValueError, match="got no rows"):
        task_of(rows.select([]))
