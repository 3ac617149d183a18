"""log.csv, there and back."""

from medseg.training.log import read_log, write_log


def test_rows_come_back_up_to_a_step_and_columns_may_come_late(tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "val_dice": 0.75}, {"step": 3, "loss": 0.1}]
    write_log(tmp_path / "fold_0" / "log.csv", rows)
    assert (tmp_path / "fold_0" / "log.csv").read_text() == "step,loss,val_dice\n1,0.5,\n2,0.25,0.75\n3,0.1,\n"
    kept = read_log(tmp_path / "fold_0" / "log.csv", until=2)
    assert kept == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25", "val_dice": "0.75"}]


def test_rows_written_again_are_the_same_bytes(tmp_path):
    rows = [{"step": n, "loss": 1 / (n + 3), "learning_rate": 2e-05} for n in range(5)]
    write_log(tmp_path / "log.csv", rows)
    before = (tmp_path / "log.csv").read_bytes()
    write_log(tmp_path / "log.csv", read_log(tmp_path / "log.csv", until=9))
    assert (tmp_path / "log.csv").read_bytes() == before


def test_no_log_has_no_rows(tmp_path):
    assert read_log(tmp_path / "log.csv", until=9) == []
