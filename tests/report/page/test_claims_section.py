from __future__ import annotations

from llqr_sam.report.claims.claim import FAMILIES
from llqr_sam.report.page.claims_section import claims_section
from tests.report.claims.made_up import gather_at_paper, write_table


def test_a_tested_claim_has_its_word_and_a_missing_one_its_command(tmp_path):
    """Table 7 without FisherSAM: transport can be tested, the learned probe cannot."""
    write_table(tmp_path, "table=7", gains={"llqr_probe_sam-ngd": 0.0, "llqr_sam-ngd": 3.0})
    section = claims_section(gather_at_paper(["7"], [f"paths.results={tmp_path}"]))
    (scale,) = section.scales
    (family,) = scale.families
    (claim,) = family.claims
    assert (section.tested, section.asked) == (1, 2)
    assert (claim.headline.badge.word, claim.headline.badge.symbol) == ("supported", "●")
    track = claim.headline.track
    assert track is not None
    assert track.tone == "above"
    assert track.zero < track.low < track.mean < track.high
    assert track.zero < track.paper < track.mean, "0.59 in the paper, about 3 here"
    assert claim.versus == "LLQR+SAM (NGD) - LLQR^Δ+SAM (NGD)"
    assert (claim.headline.text.n, claim.headline.text.paper) == ("5", "+0.59")
    assert list(scale.lacking) == ["python train.py table=7"]
    assert (
        scale.verdict
        in "Of 1 claim tested at the paper's scale, 1 is supported, 0 contradicted and 0 undecided "
        + ("(n = 5 seeds); 1 further claim has not been run.")
    )


def test_nothing_run_has_no_claim(tmp_path):
    section = claims_section(gather_at_paper(["7"], [f"paths.results={tmp_path}"]))
    assert (section.tested, [scale.families for scale in section.scales]) == (0, [[]])


def test_differences_under_noise_and_ratios_have_axes_of_their_own(tmp_path):
    """Table 8 under noise, and times: on the axis of ratios no effect is 1."""
    gains = {"sgdm": 0.0, "sam": 2.0, "llqr-ngd": 0.5, "llqr_sam-ngd": 3.0}
    write_table(tmp_path, "table=8", gains=gains, seeds=range(3))
    (scale,) = claims_section(gather_at_paper(["8"], [f"paths.results={tmp_path}"])).scales
    noise, ratios = scale.families
    assert (noise.title, ratios.title) == FAMILIES[1:]
    assert "0" in [label for _, label in noise.axis.ticks]
    ticks = {label: at for at, label in ratios.axis.ticks}
    assert all(line.track.zero == ticks["1"] for claim in ratios.claims for line in claim.lines)
