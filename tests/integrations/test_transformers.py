"""``SharpnessAwareTrainer`` is the plain loop with ``optimizer.step(closure)``, whatever ``Trainer`` does around it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import default_collate

from llqr_sam import LLQR, Friendly, SharpnessAware
from llqr_sam.torchvision_compat import ensure_torchvision

pytestmark = pytest.mark.integrations
pytest.importorskip("accelerate")
pytest.importorskip("transformers")
ensure_torchvision()

import transformers  # noqa: E402

from llqr_sam.integrations.transformers import Logits, SharpnessAwareTrainer  # noqa: E402
from tests.integrations.ranks import launched  # noqa: E402

MICRO_BATCH, WINDOW = 3, 4
MAX_NORM = 0.05  # clips every step


def _language_model(dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_hidden_layers": 1}
    config = transformers.OPTConfig(
        vocab_size=20, num_attention_heads=2, max_position_embeddings=8, dropout=dropout, use_cache=False, **sizes
    )
    return transformers.OPTForCausalLM(config).to(dtype)


def _image_model():
    torch.manual_seed(0)
    sizes = {"num_channels": 1, "embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(layer_type="basic", num_labels=3, **sizes)
    ).double()


def _sentences(count=17):
    """Token sequences of different lengths: what follows the last word is padding."""
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(1, 20, (count, 6), generator=draw)
    padding = torch.arange(6) >= torch.randint(3, 7, (count, 1), generator=draw)
    columns = {"input_ids": words, "attention_mask": (~padding).long(), "labels": words.masked_fill(padding, -100)}
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _images(count=17):
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 1, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.randint(3, (count,), generator=draw)
    return [{"pixel_values": pixels[row], "labels": labels[row]} for row in range(count)]


def _llqr_sam(base, model, **options):
    metric = LLQR(Logits(model), structure="kfac", interval=2, inner_steps=3)
    return SharpnessAware(base, rho=0.1, probe=metric, transport=metric, **options)


METHODS = {
    "sam": partial(SharpnessAware, rho=0.1),
    "late_sam": partial(SharpnessAware, rho=0.1, start_step=2),
    "replayed_sam": partial(SharpnessAware, rho=0.1, same_randomness=True),
    "f_sam": lambda base, model: SharpnessAware(base, rho=0.1, direction=Friendly()),
    "llqr_sam": _llqr_sam,
}


class _Seeded(transformers.TrainerCallback):
    """Gives each step random numbers of its own, as the plain loop below does."""

    def on_step_begin(self, args, state, control, **_):
        torch.manual_seed(state.global_step)


def _arguments(folder, **options):
    settings = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 2,
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": WINDOW,
        "optim": "adamw_torch",
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "max_grad_norm": MAX_NORM,
        "seed": 0,
    }
    return transformers.TrainingArguments(str(folder), **{**settings, **options})


def _trained(folder, model, data, method, scaler=None, **options):
    arguments = _arguments(folder, **options)
    trainer = SharpnessAwareTrainer(
        model, arguments, train_dataset=data, eval_dataset=data, sharpness_aware=method, callbacks=[_Seeded]
    )
    trainer.accelerator.scaler = scaler
    trainer.train()
    return trainer


def _base(model, weight_decay=0.1):
    """The optimizer that the arguments describe: no weight decay for biases and layer norms."""
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=weight_decay)


def _plain_loop(model, data, method, loss_of=None, scaler=None, weight_decay=0.1):
    """The same training by hand; returns (loss, norm, learning rate) of each step; a skipped one has no norm."""
    optimizer = method(_base(model, weight_decay), model=model)
    micro_batches = [default_collate(data[i : i + MICRO_BATCH]) for i in range(0, len(data), MICRO_BATCH)]
    windows = [micro_batches[i : i + WINDOW] for i in range(0, len(micro_batches), WINDOW)] * 2
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(windows))
    scaler, loss_of = scaler or torch.amp.GradScaler("cpu", enabled=False), loss_of or _mean_over_words
    norms, log = [], []
    optimizer.base.register_step_pre_hook(lambda *_: norms.append(clip_grad_norm_(model.parameters(), MAX_NORM).item()))
    model.train()
    optimizer.train()
    for step, window in enumerate(windows):
        torch.manual_seed(step)
        if isinstance(optimizer.transport, LLQR):
            _refresh(optimizer.transport, window[0])

        def closure(window=window):
            optimizer.zero_grad()
            total = 0.0
            for batch in window:
                loss = loss_of(model, batch, window)
                scaler.scale(loss).backward()
                total += loss.detach()
            return total

        steps, rate = optimizer.steps, scheduler.get_last_lr()[0]
        loss = optimizer.step(closure, scaler=scaler)
        scaler.update()
        stepped = optimizer.steps > steps
        log.append((float(loss), norms[-1] if stepped else math.nan, rate))
        if stepped:
            scheduler.step()
    optimizer.eval()
    return log


def _mean_over_words(model, batch, window):
    """This micro-batch's part of the mean over all words of the window, padding left out."""
    return model(**batch, num_items_in_batch=sum((b["labels"][:, 1:] != -100).sum() for b in window)).loss


def _refresh(metric, batch):
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    labels = pad(batch["labels"][:, 1:], (0, 1), value=-100)
    metric.refresh_if_due(inputs, labels, lambda z, y: cross_entropy(z.flatten(0, 1), y.flatten()))


def _same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def _log(trainer):
    return [
        (e["loss"], e.get("grad_norm", math.nan), e["learning_rate"]) for e in trainer.state.log_history if "loss" in e
    ]


def _assert_same(trainer, theirs, log):
    """The trainer's model has the weights of the plain loop's, bit for bit, and it logged the same."""
    assert trainer.optimizer.optimizer.steps == sum(not math.isnan(norm) for _, norm, _ in log)
    assert _same_weights(trainer.model, theirs)
    torch.testing.assert_close(torch.tensor(_log(trainer)), torch.tensor(log), equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_plain_loop(method, tmp_path):
    """With windows of 4 and of 2 micro-batches, padding, dropout, clipping, weight decay and a schedule."""
    ours, theirs, data = _language_model(0.2), _language_model(0.2), _sentences()
    trainer = _trained(tmp_path, ours, data, METHODS[method])
    _assert_same(trainer, theirs, _plain_loop(theirs, data, METHODS[method]))


def test_without_perturbation_it_is_trainer(tmp_path):
    """rho = 0 and no transport: ``Trainer`` itself, with its own loss, clipping and log."""
    ours, theirs, data = _language_model(0.2), _language_model(0.2), _sentences()
    trainer = _trained(tmp_path, ours, data, partial(SharpnessAware, rho=0.0))
    plain = transformers.Trainer(theirs, _arguments(tmp_path), train_dataset=data, callbacks=[_Seeded])
    plain.train()
    assert _same_weights(ours, theirs)
    torch.testing.assert_close(torch.tensor(_log(trainer)), torch.tensor(_log(plain)))


@pytest.mark.parametrize("batch_norm", ["perturbed", "clean"])
def test_batch_norm(batch_norm, tmp_path):
    """Running statistics come from one of the two passes, over all micro-batches."""
    ours, theirs, data = _image_model(), _image_model(), _images()
    method = partial(SharpnessAware, rho=0.1, batch_norm=batch_norm)
    # Trainer counts the labels of a window, and this model's loss takes no count: it sums the micro-batches' means.
    trainer = _trained(tmp_path, ours, data, method, weight_decay=0.0)
    log = _plain_loop(theirs, data, method, lambda model, batch, _: model(**batch).loss, weight_decay=0.0)
    _assert_same(trainer, theirs, log)


def test_bfloat16(tmp_path):
    ours, theirs, data = _language_model(dtype=torch.float32), _language_model(dtype=torch.float32), _sentences()

    def loss_of(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return _mean_over_words(*args)

    trainer = _trained(tmp_path, ours, data, METHODS["llqr_sam"], bf16=True)
    _assert_same(trainer, theirs, _plain_loop(theirs, data, METHODS["llqr_sam"], loss_of))


@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_loss_scaling(scale, tmp_path):
    """An overflow skips the step and the schedule. ``Trainer`` makes a scaler on a GPU alone, so it is given one."""
    ours, theirs, data = _language_model(dtype=torch.float32), _language_model(dtype=torch.float32), _sentences()
    trainer = _trained(tmp_path, ours, data, METHODS["llqr_sam"], torch.amp.GradScaler("cpu", init_scale=scale))
    log = _plain_loop(theirs, data, METHODS["llqr_sam"], scaler=torch.amp.GradScaler("cpu", init_scale=scale))
    _assert_same(trainer, theirs, log)
    assert any(math.isnan(norm) for _, norm, _ in log) == (scale > 2.0**100)


@pytest.mark.parametrize("steps", [3, 4])
def test_resume_is_bitwise(steps, tmp_path):
    """Inside an epoch and at its end, with shuffled data, dropout and a learned metric."""
    settings = {"train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": steps, "max_steps": 6}

    def trainer(model):
        arguments = _arguments(tmp_path, **settings)
        return SharpnessAwareTrainer(model, arguments, train_dataset=_sentences(), sharpness_aware=_llqr_sam)

    whole, resumed = _language_model(0.2), _language_model(0.2)
    trainer(whole).train()
    trainer(resumed).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
    assert _same_weights(whole, resumed)


def test_an_optimizer_of_ones_own(tmp_path):
    """``optimizers=`` is the other way, with a schedule of one's own; training may go on."""
    ours, theirs, data = _language_model(), _language_model(), _sentences()
    optimizer = _llqr_sam(_base(ours), ours)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    arguments = _arguments(tmp_path, num_train_epochs=1)
    trainer = SharpnessAwareTrainer(ours, arguments, train_dataset=data, optimizers=(optimizer, schedule))
    trainer.train()
    trainer.train()
    _plain_loop(theirs, data, _llqr_sam)
    assert optimizer.steps == 4
    assert _same_weights(ours, theirs)


def test_schedule_free_base(tmp_path):
    """``Trainer`` trains at one point and evaluates at another, so it goes from one to the other and back."""
    ours, theirs, data = _language_model(), _language_model(), _sentences()

    def method(base, model):
        base = pytest.importorskip("pytorch_optimizer").ScheduleFreeAdamW
        return SharpnessAware(base(model.parameters(), lr=0.01), rho=0.1)

    trainer = _trained(tmp_path, ours, data, method, eval_strategy="steps", eval_steps=1)
    trainer.evaluate()
    _plain_loop(theirs, data, method)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)


def test_other_trainers_by_inheritance(tmp_path):
    class Both(SharpnessAwareTrainer, transformers.Seq2SeqTrainer):
        pass

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **sizes))
    settings = _arguments(tmp_path).to_dict() | {"predict_with_generate": True, "generation_max_length": 4}
    arguments = transformers.Seq2SeqTrainingArguments(**settings)
    data = _sentences()
    trainer = Both(model, arguments, train_dataset=data, eval_dataset=data, sharpness_aware=_llqr_sam)
    trainer.train()
    assert trainer.optimizer.optimizer.steps == 4
    assert trainer.evaluate()["eval_loss"] < _log(trainer)[0][0]


def test_a_loss_of_ones_own_needs_a_refresh_of_ones_own(tmp_path):
    """LLQR must know the loss; a regression's is not the cross-entropy of labels."""
    data = [{**image, "labels": image["labels"].double()} for image in _images()]

    class Regression(SharpnessAwareTrainer):
        def refresh(self, metric, inputs):
            mean_square = torch.nn.functional.mse_loss
            metric.refresh_if_due({"pixel_values": inputs["pixel_values"]}, inputs["labels"].unsqueeze(1), mean_square)

    def method(base, model):
        metric = LLQR(Logits(model), likelihood="gaussian", inner_steps=2)
        return SharpnessAware(base, probe=metric, transport=metric)

    def trainer(kind):
        model = _image_model()
        model.classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)).double()
        model.num_labels = model.config.num_labels = 1
        return kind(model, _arguments(tmp_path), train_dataset=data, sharpness_aware=method)

    with pytest.raises(ValueError, match="override refresh for yours"):
        trainer(SharpnessAwareTrainer).train()
    own = trainer(Regression)
    own.train()
    assert own.optimizer.optimizer.steps == 4


def test_wrong_uses_are_refused(tmp_path):
    model, arguments = _language_model(), _arguments(tmp_path)
    with pytest.raises(ValueError, match="either sharpness_aware=, or a SharpnessAware as optimizers="):
        SharpnessAwareTrainer(model, arguments, train_dataset=_sentences())
    with pytest.raises(ValueError, match="either sharpness_aware=, or a SharpnessAware as optimizers="):
        optimizers = (SharpnessAware(_base(model)), None)
        SharpnessAwareTrainer(model, arguments, optimizers=optimizers, sharpness_aware=METHODS["sam"])
    with pytest.raises(TypeError, match="optimizer=AdamW is not a SharpnessAware"):
        SharpnessAwareTrainer(model, arguments, train_dataset=_sentences(), optimizers=(_base(model), None)).train()


def _llqr_sam_on_ranks(base, model):
    metric = LLQR(Logits(model), structure="diagonal", inner_steps=3, process_group=dist.group.WORLD)
    return SharpnessAware(base, rho=0.1, probe=metric, transport=metric)


def _trained_on_ranks(folder, method):
    """Trains on micro-batches of one sample each on two ranks, or of two in one process; returns the weights."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    if dist.is_initialized():
        launched()
        settings |= {"per_device_train_batch_size": 1, "ddp_backend": "gloo"}
    return _trained(folder, _language_model(), _sentences(16), method, **settings).model.state_dict()


def test_two_processes_are_one_on_the_whole_batches(two, tmp_path):
    """With accumulation and different numbers of words: the loss is the mean over all words, as in ``Trainer``."""
    one, other = two(_trained_on_ranks, tmp_path, METHODS["sam"])
    assert all(torch.equal(one[name], other[name]) for name in one)
    torch.testing.assert_close(one, _trained_on_ranks(tmp_path, METHODS["sam"]), rtol=1e-10, atol=1e-12)


def test_two_processes_learn_one_metric(two, tmp_path):
    one, other = two(_trained_on_ranks, tmp_path, _llqr_sam_on_ranks)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(AssertionError, match="would learn a U of its own"):
        two(_trained_on_ranks, tmp_path, _llqr_sam)
