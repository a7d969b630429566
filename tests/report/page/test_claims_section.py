from __future__ import annotations

from llqr_sam.report.page.claims_section import claims_section
from tests.report.claims.made_up import gather_at_paper, write_table


def test_a_tested_claim_has_its_word_and_a_missing_one_its_command(tmp_path):
    """Table 7 without FisherSAM: transport can be tested, the learned probe cannot."""
    write_table(tmp_path, "table=7", gains={"llqr_probe_sam-ngd": 0.0, "llqr_sam-ngd": 3.0})
    section = claims_section(gather_at_paper(["7"], [f"paths.results={tmp_path}"]))
    (scale,) = section.scales
    (claim,) = scale.claims
    assert (section.tested, section.asked) == (1, 2)
    assert (claim.badge.word, claim.badge.symbol) == ("supported", "●")
    assert claim.versus == "LLQR+SAM (NGD) - LLQR^Δ+SAM (NGD)"
    assert (claim.headline.n, claim.headline.paper) == ("5", "+0.59")
    assert list(scale.lacking) == ["python train.py table=7"]
    assert (
        scale.verdict
        in "Of 1 claim tested at the paper's scale, 1 is supported, 0 contradicted and 0 undecided "
        + ("(n = 5 seeds); 1 further claim has not been run.")
    )


def test_nothing_run_has_no_claim(tmp_path):
    section = claims_section(gather_at_paper(["7"], [f"paths.results={tmp_path}"]))
    assert (section.tested, [scale.claims for scale in section.scales]) == (0, [[]])
