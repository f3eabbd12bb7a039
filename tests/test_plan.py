"""Plans are kept for the latest shapes."""

from rnncore.plan import Plans


def test_the_latest_plans_are_kept():
    plans, made = Plans(size=2), []

    def get(key):
        return plans.get(key, lambda: made.append(key) or object())

    first = get("a")
    assert get("a") is first
    get("b")
    assert get("a") is first  # and now later than b
    get("c")
    assert get("a") is first
    assert made == ["a", "b", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]
