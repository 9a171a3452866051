"""Two processes of four devices collect the records that one process of eight does."""

import pyarrow.parquet as pq
import pytest

from cascade_jax.cli import collect
from tests.multihost import processes

GIN = """
from cascade_jax.evaluation import collect
collect.CollectConfig.students = ["xent"]
COLLECT_LIMIT = 12
DECODE_BATCH_SIZE = 8
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(collect, "MANY_HOSTS"), reason="collect is for one host")
def test_records_of_two_processes(tmp_path):
    file = processes.write_gin(tmp_path, "out", 2, 2)
    first = "from cascade_jax.models import config\n"
    text = file.read_text().replace('ONLY = "teacher"', 'ONLY = ["teacher", "xent"]')
    text = text.replace(first, first + GIN.splitlines()[1] + "\n")
    # The large model is as wide as the small one, and a large one again.
    text = text.replace("teacher/loop.TrainRun.model = %STUDENT\n", "")
    small = [line for line in text.splitlines() if line.startswith("small/")]
    large = [line.replace("small/", "large/") for line in small]
    file.write_text("\n".join([text, *large, *GIN.splitlines()[2:]]) + "\n")
    processes.Command(file, tmp_path / "train.log").finish()
    tables = []
    for count in (1, 2):
        texts = processes.Command(file, tmp_path / "log", count, name="collect").finish()
        table = tmp_path / "out" / "records" / "test" / "xent.parquet"
        assert [str(table) in text for text in texts] == [True, False][:count]
        tables.append(pq.read_table(table))
        table.unlink()
    one, two = (table.drop(["student_seconds", "teacher_seconds"]) for table in tables)
    assert one.num_rows == 12 and two.equals(one)
