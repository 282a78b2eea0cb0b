"""The tables of settings: what `training:` and `model.lora:` may say.

Names, types, defaults and help are those of the installed TRL, transformers and PEFT. What is refused, and
the bounds that the libraries do not state, are decided here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import re
import types
import typing
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

Fragment = dict[str, Any]

# What to use instead → the keys. A key is refused when ftrun decides it, or when it would have no effect.
REFUSED = {
    "trainer": {
        "Set `output`: run folders go there.": "output_dir",
        "Leave it out: ftrun records every run in MLflow, as `tracking` says.": "report_to project "
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        "Set `name` at the top of the recipe: it names the run.": "run_name",
        "Leave it out: publish the model folder yourself, for example with `hf upload`.": "push_to_hub "
        "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
        "Leave it out: ftrun must see the true loss, and the filter hides NaN.": "logging_nan_inf_filter",
        "Leave it out: a run trains, and evaluates when `data.eval` is set.": "do_train do_eval do_predict",
        "Run `ftrun RECIPE --resume`.": "resume_from_checkpoint",
        "Leave it out: a resumed run goes on exactly where it stopped.": "ignore_data_skip "
        "restore_callback_states_from_checkpoint",
        "Leave it out: an interrupted run saves a checkpoint; `--resume` goes on.": "enable_jit_checkpoint",
        "Set `model.trust_remote_code`.": "trust_remote_code",
        "Set `model.chat_template`.": "chat_template_path",
        "Name the column under the source: `columns: {text: NAME}`.": "dataset_text_field",
        "Leave it out: ftrun prepares the rows itself.": "dataset_kwargs dataset_num_proc "
        "remove_unused_columns",
        "Leave it out: lengths are counted from the tokens.": "length_column_name",
        "Leave it out: evaluation computes the loss alone, so this has no effect. "
        "`evaluation.exact_match` compares answers.": "label_names include_for_metrics batch_eval_metrics "
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps",
        "Leave it out: TRL deprecates it, and the tokenizer brings its own.": "pad_token",
        "Set `gradient_checkpointing`, TRL's name for it.": "activation_checkpointing",
        "Set `gradient_checkpointing_kwargs`, TRL's name for it.": "activation_checkpointing_kwargs",
        "Leave it out: TRL keeps the cache off in every training step.": "use_cache",
        "Set `per_device_train_batch_size`: a run trains with the batch size that its record "
        "says.": "auto_find_batch_size",
        "Leave it out: ftrun shows progress itself.": "disable_tqdm",
        "Leave it out: the launcher says it, in LOCAL_RANK.": "local_rank",
        "Set `launch.strategy: fsdp`.": "fsdp",
        "Leave it out: it takes a Python object. Set `launch.strategy`.": "parallelism_config",
    },
    "sft": {
        "Set `data.loss_on`: completion, assistant or all.": "completion_only_loss assistant_only_loss",
        "Set `model_init_kwargs: {use_kernels: true}`: TRL deprecates Liger for SFT.": "use_liger_kernel "
        "liger_kernel_config",
        "Leave it out: TRL deprecates label smoothing for SFT, with no successor.": "label_smoothing_factor",
    },
    "reward": {
        "Leave it out: Liger's kernels are for the loss of a language model.": "use_liger_kernel "
        "liger_kernel_config",
        "Leave it out: the loss compares two scores, and no label is smoothed.": "label_smoothing_factor",
    },
    "dpo": {
        "Set `model_init_kwargs: {use_kernels: true}`: TRL deprecates Liger for DPO.": "use_liger_kernel "
        "liger_kernel_config",
        "Set `label_smoothing`: this one is for the loss of a language model.": "label_smoothing_factor",
        "Leave it out: TRL's DPOTrainer ignores it since a rewrite, and pads.": "padding_free",
    },
    "ppo": {
        "Leave it out: Liger's kernels are for the loss of a language model.": "use_liger_kernel "
        "liger_kernel_config",
        "Leave it out: the losses of PPO have no labels to smooth.": "label_smoothing_factor",
        "Leave it out: it is for the inputs of a language model's own loss.": "neftune_noise_alpha",
    },
    "lora": {
        "Leave it out: `method` decides it.": "task_type",
        "Leave it out: `model.lora` is always LoRA, and is trained.": "peft_type inference_mode",
        "Leave it out: PEFT fills it in.": "auto_mapping peft_version base_model_name_or_path",
        "Set `model.revision`.": "revision",
        "Leave it out: ftrun trains no Megatron models.": "megatron_config megatron_core",
        "Leave it out: it takes a Python object.": "runtime_config",
        "Leave it out: it needs a pass over the data that ftrun does not make. `init_lora_weights: pissa` "
        "starts from the weights alone.": "eva_config corda_config lora_ga_config",
        "Leave it out: it routes between trained adapters and trains none.": "arrow_config",
        "Leave it out: it needs a loss term that the trainer does not add.": "kasa_config monteclora_config",
        "Set `model.quantization`: ftrun quantises with bitsandbytes, without LoftQ's start.": "loftq_config",
        "Set `model.quantization`: PEFT has QA-LoRA for GPTQ weights only.": "use_qalora qalora_group_size",
    },
}

# Bounds that the dataclasses do not state: values outside them mean nothing to any trainer.
BOUNDS: dict[str, Fragment] = {
    "learning_rate num_train_epochs warmup_steps weight_decay adam_epsilon max_grad_norm neftune_noise_alpha "
    "eval_delay router_aux_loss_coef dataloader_num_workers data_seed lora_alpha": {"minimum": 0},
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length "
    "torch_empty_cache_steps save_total_limit dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout "
    "r num_groups nblocks max_prompt_length response_length local_rollout_forward_batch_size num_ppo_epochs "
    "num_mini_batches kl_horizon precompute_ref_batch_size": {"minimum": 1},
    "min_response_length vf_coef": {"minimum": 0},
    "temperature cliprange cliprange_value kl_target score_clip discopop_tau": {"exclusiveMinimum": 0},
    "gamma lam top_p ld_alpha": {"minimum": 0, "maximum": 1},
    "logging_steps eval_steps save_steps scale": {"exclusiveMinimum": 0},
    "max_steps": {"minimum": -1},
    "adam_beta1 adam_beta2": {"minimum": 0, "exclusiveMaximum": 1},
    "lora_dropout": {"minimum": 0, "maximum": 1},
    "seed": {"minimum": 0, "maximum": 2**32 - 1},  # NumPy's range, which set_seed feeds
}

DPO_LOSSES = (
    "sigmoid|hinge|ipo|exo_pair|nca_pair|robust|bco_pair|sppo_hard|aot|aot_unpaired|apo_zero|apo_down|discopop|sft"
    "|sigmoid_norm"
)
"""The names that TRL's `DPOTrainer` knows; its config takes any text."""

# Where the type hint says less, or more, than the library takes. None takes a keyword away.
CORRECTIONS: dict[str, Fragment] = {
    "debug": {"type": "string", "enum": ["", "underflow_overflow"], "items": None},
    "include_num_input_tokens_seen": {"enum": [True, False, "all", "non_padding", "no"]},
    "sft.loss_type": {"enum": ["nll", "dft"]},  # chunked_nll is a deprecated name of nll
    "dpo.loss_type": {
        "type": ["string", "array"],
        "pattern": f"^({DPO_LOSSES})$",
        "items": {"type": "string", "enum": DPO_LOSSES.split("|")},
    },
    "dpo.f_divergence_type": {"enum": ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]},
    "pad_to_multiple_of": {"minimum": 1, "pattern": "^auto$"},
    "rank_pattern": {"additionalProperties": {"type": "integer", "minimum": 1}},
    "alpha_pattern": {"additionalProperties": {"type": "number", "minimum": 0}},
    # Without those whose config is refused.
    "init_lora_weights": {
        "type": ["boolean", "string"],
        "enum": None,
        "pattern": "^(gaussian|olora|pissa|pissa_niter_[0-9]+|orthogonal|mica)$",
    },
    "use_bdlora": {"type": ["object", "null"]},
}

# Where the libraries' help speaks of something that a recipe does in another way, or is too terse.
HELP = {
    "model_init_kwargs": "Further arguments of the model's `from_pretrained`, merged with what `model` says.",
    "eos_token": "Token that ends a turn or a sequence. Absent: the tokenizer's own.",
    "gradient_checkpointing_kwargs": "Arguments of gradient checkpointing, for example `use_reentrant`, "
    "`every_n_layers` or `offload`.",
    "fsdp_config": "Options of FSDP, used with `launch.strategy: fsdp`.",
    "deepspeed": "DeepSpeed's configuration, used with `launch.strategy: deepspeed`.",
    "accelerator_config": "Options of the Accelerator.",
    "lr_scheduler_type": "Shape of the learning rate over the steps.",
    "optim": "The optimizer.",
    "truncation_mode": "Which end of a row that is longer than `max_length` is kept.",
    "save_total_limit": "How many checkpoints are kept. Absent: all.",
    "eval_packing": "Pack the evaluation rows. Absent: as `packing`.",
    "debug": "`underflow_overflow` stops where a layer's numbers overflow and prints the last ones.",
    "init_lora_weights": "How the adapters start. `true`: as no change to the model; `false`: at random.",
    "r": "Rank of the adapters.",
    "lora_alpha": "Scale of the adapters: their output is multiplied by lora_alpha / r.",
    "lora_dropout": "Share of the adapters' inputs that is dropped while training.",
    "layers_pattern": "Name of the model's list of layers, for `layers_to_transform`.",
    "trainable_token_indices": "Tokens whose embeddings are trained: a list of ids, or a mapping from the "
    "name of an embedding to its ids.",
    "velora_config": "VeLoRA: keep the inputs of the adapters compressed for the backward pass.",
    "use_bdlora": "BD-LoRA: adapters of block-diagonal matrices, for serving many of them.",
}


def make_tables() -> dict[str, Fragment]:
    """The tables of the configs of every method, and of LoraConfig (`lora`)."""
    from peft import LoraConfig
    from trl import DPOConfig, RewardConfig, SFTConfig

    from ftrun.runner.ppo.config import PPOConfig

    configs = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig, "ppo": PPOConfig}
    tables = {
        method: make_table(
            method,
            config,
            {**REFUSED["trainer"], **REFUSED[method]},
            ("transformers",) if method == "ppo" else ("trl", "transformers"),
        )
        for method, config in configs.items()
    }
    return {**tables, "lora": make_table("lora", LoraConfig, REFUSED["lora"], ("peft",))}


def make_table(name: str, config: type, reasons: Mapping[str, str], packages: Iterable[str]) -> Fragment:
    known = {field.name for field in dataclasses.fields(config)}
    refused = {key: reason for reason, keys in reasons.items() for key in keys.split() if key in known}
    made_from = {package: version(package) for package in packages}
    fields = describe_fields(config, without=refused, name=name)
    return {"made_from": made_from, "fields": fields, "refused": refused}


def describe_fields(config: type, without: Mapping[str, str], name: str = "") -> dict[str, Fragment]:
    """A fragment for each field of a dataclass, with its default and description.

    `name` is that of the table, for corrections that hold in it alone.
    """
    hints = typing.get_type_hints(config)
    json_text = getattr(config, "_VALID_DICT_FIELDS", ())
    fields = {}
    for field in dataclasses.fields(config):
        if field.name in without or not field.init:
            continue
        # A dict field that also takes a string takes JSON text or a path from a command line. A recipe has
        # mappings, and a path would keep the settings out of the run's record.
        hint = hints[field.name]
        if field.name in json_text:
            hint = functools.reduce(operator.or_, (one for one in typing.get_args(hint) if one is not str))
        fields[field.name] = describe_field(field, hint, name)
    return fields


def describe_field(field: dataclasses.Field[Any], hint: Any, table: str) -> Fragment:
    fragment = describe_type(hint)
    if choices := field.metadata.get("choices"):
        fragment["enum"] = [*choices, *([None] if "null" in fragment["type"] else [])]
    for names, bounds in (*BOUNDS.items(), *CORRECTIONS.items()):
        if {field.name, f"{table}.{field.name}"} & {*names.split()}:
            fragment = {key: value for key, value in {**fragment, **bounds}.items() if value is not None}
    make_default = field.default_factory
    default = field.default if make_default is dataclasses.MISSING else make_default()
    help_text = HELP.get(field.name) or first_sentences(field.metadata.get("help", ""))
    return {**fragment, "default": default, "description": help_text}


def describe_type(hint: Any) -> Fragment:
    """The JSON Schema of a type hint."""
    plain = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        type(None): "null",
        dict: "object",
    }
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in plain:
        return {"type": plain[hint]}
    if origin in (typing.Union, types.UnionType):
        return join_types([describe_type(one) for one in arguments])
    if origin is typing.Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": describe_type(arguments[0])}
    if origin is tuple:
        size = len(arguments)
        return {"type": "array", "items": describe_type(arguments[0]), "minItems": size, "maxItems": size}
    if origin is dict:
        values = {} if arguments[1] is Any else {"additionalProperties": describe_type(arguments[1])}
        return {"type": "object", **values}
    if issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [member.value for member in hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return {
            "type": "object",
            "properties": describe_fields(hint, without={}),
            "additionalProperties": False,
        }
    raise TypeError(f"no JSON type for {hint}")


def join_types(fragments: list[Fragment]) -> Fragment:
    """One fragment for a union. An enum wins over the plain string beside it, which is its loose form."""
    kinds = list(dict.fromkeys(fragment["type"] for fragment in fragments))
    joined: Fragment = {}
    for fragment in sorted(fragments, key=lambda one: "properties" in one):
        joined.update(fragment)
    if "enum" in joined:
        joined["enum"] = [*joined["enum"], *([None] if "null" in kinds else [])]
    return {**joined, "type": kinds[0] if len(kinds) == 1 else kinds}


def first_sentences(text: str) -> str:
    """The first sentence of a field's help, or two when they are short, without markup."""
    text = re.sub(r"</?a\b[^>]*>|`{2,}", "", " ".join(text.split()).replace("%%", "%"))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    sentences = [
        sentence
        for sentence in re.split(r"(?<=[a-z0-9)`'\]]\.) (?=[A-Z`])", text)
        if not re.match(r"See |Reference:|Pass `--", sentence)
    ]
    two = " ".join(sentences[:2])
    return two if len(two) <= 240 else sentences[0]
