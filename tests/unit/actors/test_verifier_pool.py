"""The pool of a run over real processes: verifiers by name, and tickets for what takes long."""

import asyncio

from actors.records import Late, Unscored
from actors.verifier_pool import VerifierPool
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

EXACT, COUNTDOWN = VerifierSpec("exact"), VerifierSpec("countdown")


def run(use, specs=None, processes: int = 1):
    async def main():
        pool = VerifierPool(specs or {"": EXACT, "exact": EXACT, "countdown": COUNTDOWN}, processes)
        await pool.start()
        try:
            return await use(pool)
        finally:
            await pool.close()

    return asyncio.run(main())


def test_each_problem_is_judged_by_the_verifier_that_it_names():
    requests = [
        ScoreRequest("", "paris", "Paris"),
        ScoreRequest("", "7-3=4", "7,3>4", verifier="countdown"),
        ScoreRequest("", "7-3=4", "4", verifier="exact"),
        ScoreRequest("", "7", "7", verifier="maths"),
    ]
    verdicts = run(lambda pool: pool.score(requests))
    assert [(v.verifier, v.status) for v in verdicts] == [
        ("exact", "correct"),
        ("countdown", "correct"),
        ("exact", "wrong"),
        ("maths", "error"),
    ]
    assert "name it under verifier.others" in verdicts[3].feedback


def test_an_answer_that_takes_long_gets_a_ticket_and_the_others_their_verdicts(tmp_path, monkeypatch):
    (tmp_path / "sleepy.py").write_text(
        "import time\nfrom verifiers.records import Verdict\n"
        "class Sleepy:\n    name, version = 'sleepy', '1'\n    def score(self, request):\n"
        "        time.sleep(float(request.response))\n        return Verdict(1.0, 'correct', 'sleepy', '1')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    async def use(pool: VerifierPool) -> tuple[list[Verdict | Late], Verdict | None, Verdict | None]:
        answers = await pool.score([ScoreRequest(str(i), text, "") for i, text in enumerate(("0", "1.5", "0"))])
        late = answers[1]
        assert isinstance(late, Late)
        return answers, await pool.late(late.ticket), await pool.late(late.ticket)

    answers, verdict, again = run(use, {"": VerifierSpec("sleepy:Sleepy", timeout_s=20.0)}, processes=2)
    assert [isinstance(answer, Late) for answer in answers] == [False, True, False]
    assert verdict is not None
    assert verdict.status == "correct"
    assert verdict.milliseconds > 1400
    assert again is None


def test_a_verifier_that_cannot_be_had_holds_up_no_answer_of_another(tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text(
        "import os\nfrom verifiers.records import Verdict\n"
        "class Fragile:\n    name, version = 'fragile', '1'\n"
        "    def open(self):\n        assert not os.path.exists(os.environ['BROKEN'])\n"
        "    def score(self, request):\n        open(os.environ['BROKEN'], 'w')\n        os._exit(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BROKEN", str(tmp_path / "broken"))
    specs = {"": EXACT, "fragile": VerifierSpec("fragile:Fragile", timeout_s=20.0, environment=("BROKEN",))}
    requests = [ScoreRequest("", "x", "", verifier="fragile"), ScoreRequest("", "paris", "Paris")]
    unscored, verdict = run(lambda pool: pool.score(requests), specs, processes=2)
    assert isinstance(unscored, Unscored)
    assert "did not get ready" in unscored.why
    assert verdict.status == "correct"
