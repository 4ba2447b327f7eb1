"""The faithful split of the shipped E2E set is what its note says."""

from ftcli.data.sources.asset import find_asset
from ftcli.evaluation.e2e_slots import find_slot_errors, parse_meaning


def test_the_faithful_split_is_all_training_rows_without_a_slot_error():
    def is_faithful(row: dict[str, str]) -> bool:
        errors = find_slot_errors(row["ref"], parse_meaning(row["mr"]))
        return not (errors.missed or errors.invented)

    rows = [item.values for item in find_asset("asset:e2e", "train").rows()]
    faithful = [item.values for item in find_asset("asset:e2e", "faithful").rows()]
    assert faithful == [row for row in rows if is_faithful(row)] and len(faithful) == 3214
