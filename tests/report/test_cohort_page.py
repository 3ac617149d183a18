"""The page of a cohort, from what results.json holds."""

from pathlib import Path

from medseg.report.cohort_page import cohort_page


def test_a_predicted_dice_stands_beside_the_volume_where_there_is_one():
    case = {
        **{"case": "a", "status": "done", "scan": [{"path": "a.nii.gz"}], "outputs": {}, "warnings": [], "error": None},
        **{"seconds": {"read": 1.0}, "volumes_ml": {"liver": 12.34, "tumour": 0.5}},
        "predicted_dice": {"liver": {"dice": 0.914, "low": 0.8, "high": 0.95}, "tumour": {"dice": None}},
    }
    content = {
        **{"model": {"name": "m", "sha256": "s"}, "settings": {"overlap": 0.5}, "device": "cpu", "cases": [case]},
        **{"counts": {"done": 1, "failed": 0, "pending": 0}, "provenance": {"created": "now", "versions": {}}},
    }
    page = cohort_page(Path(), content, {}).decode()
    assert "liver 12.34 mL (predicted Dice 0.91, 0.80 to 0.95)<" in page
    assert "tumour 0.50 mL<" in page
