"""Claims of the slides on Block-Skim."""

from __future__ import annotations

from benchmarks.claims.claim import Check, Claim, at_least, at_most
from benchmarks.claims.pieces import (
    POINTS,
    SIGNED,
)
from benchmarks.claims.skim_measures import (
    architectures,
    areas_of,
    cached_loses,
    cached_saves,
    evidence_areas,
    evidence_score,
    gap_of,
    irrelevant,
    joint_areas,
    located,
    long_contexts,
    loss_gains,
    lost_of_all,
    saved,
    stages,
    top_gain,
    unchanged,
)

__all__ = ["BLOCK_SKIM"]

_PAPER = "[Block-Skim](https://arxiv.org/abs/2112.08560)"
_AREA = "{:.3f}"

_BLOCKS_NOTE = (
    "AUC: the chance that a block with the answer ranks above one without. Intervals take blocks "
    "as independent, those of one question are not."
)
_CLAIMS_ON_ATTENTION = (
    Claim(
        "locates",
        "Attention locates the answer",
        "Method 1: Block-skim",
        "the attention map is effective for locating the position of the answer.",
        (
            Check(
                "AUC of the attention that blocks receive from the question",
                at_least(0.7),
                located("auc"),
                _AREA,
            ),
            Check(
                "how often the block of most attention holds the answer, chance = 1",
                at_least(2.0),
                top_gain,
                "{:.1f}x",
            ),
        ),
        ("attention-answers",),
        note="Plain attention, with no predictor: the mean over heads and question tokens, of an "
        "encoder fine-tuned on a slice of SQuAD. Blocks of 32 tokens of the context. Intervals are "
        "a bootstrap over questions. Pictures: the areas, also before fine-tuning; and the first "
        "drawn question whose context has five blocks or more.",
        figures=("attention-areas.svg", "attention-answers.svg"),
    ),
    Claim(
        "predicts",
        "Attention predicts which blocks to skim",
        "Method 1: Block-skim",
        "attention predicts which blocks to skim and which to keep.",
        (
            Check(
                "AUC of predictors that read attention within the block",
                at_least(0.7),
                joint_areas,
                _AREA,
            ),
        ),
        ("squad",),
        note=f"{_BLOCKS_NOTE} A layer is for the claim with an AUC of 0.7 or more.",
    ),
    Claim(
        "lengthy",
        "QA context is lengthy",
        "QA Context is Lengthy",
        "the contexts of questions are long (figure of SQuAD's lengths).",
        (
            Check(
                "median of the tokens of question and context",
                at_least(128),
                long_contexts,
                "{:.0f}",
            ),
        ),
        ("length-distributions",),
        note="The bound is the length that GLUE is cut to. Counted over the drawn rows.",
    ),
    Claim(
        "unnecessary",
        "Most of the context is unnecessary",
        "QA Context is Lengthy",
        "most of the context is not needed for the answer.",
        (
            Check(
                "share of blocks that hold nothing of the answer",
                at_least(0.5),
                irrelevant,
                "{:.1%}",
            ),
        ),
        ("squad", "skim-settings"),
        note="A block without the answer may still be needed to find it: this is the upper bound "
        "of what may be skipped. Of several rows with the same block size the lowest share counts.",
    ),
    Claim(
        "architecture",
        "The Transformer is not changed",
        "Block-skim Architecture",
        "a CNN on the attention map weighs the blocks; the Transformer itself stays as it is.",
        (
            Check(
                "F1 with predictors and nothing skipped, distance to the dense model",
                at_most(0.0),
                unchanged,
                "{:.1f}",
                " points",
            ),
        ),
        ("squad",),
        note="The slide on training has it too: no block is skipped while training, and the loss "
        "of the predictors alone leaves the model's own calculation as it was.",
    ),
    Claim(
        "diagonal",
        "The diagonal region is sufficient",
        "CNN Based Block Relevance Prediction",
        "attention within a block, the diagonal of the map, is enough to tell whether it matters.",
        (
            Check(
                "AUC of predictors on the diagonal less that of predictors on the whole map",
                at_least(-0.02),
                gap_of("diagonal", "whole"),
                "{:+.3f}",
            ),
        ),
        ("skim-settings",),
        note=f"{_BLOCKS_NOTE} Only the predictors are trained, on one dense model. A layer is for "
        "the claim if the rest of the map adds less than 0.02.",
    ),
    Claim(
        "accuracy-by-layer",
        "The CNN finds relevant blocks in every layer",
        "CNN Based Block Relevance Prediction",
        "the figure shows the accuracy of the CNN, layer by layer.",
        (
            Check(
                "AUC of predictors on the diagonal, model frozen",
                at_least(0.7),
                areas_of("diagonal"),
                _AREA,
            ),
        ),
        ("skim-settings",),
        note="Shown is the AUC, since accuracy is high for a predictor that finds nothing: most "
        f"blocks hold no answer. {_BLOCKS_NOTE}",
    ),
    Claim(
        "inter-block",
        "Are there inter-block features?",
        "CNN Based Block Relevance Prediction",
        "the diagonal is intra-block; are there features between blocks as well?",
        (
            Check(
                "AUC with attention to and from the question's block less that of the diagonal",
                at_least(0.02),
                gap_of("first", "diagonal"),
                "{:+.3f}",
            ),
        ),
        ("skim-settings",),
        note=f"{_BLOCKS_NOTE} *Holds* means yes: they add 0.02 or more in that layer.",
    ),
)
_CLAIMS_ON_TRAINING = (
    Claim(
        "improves",
        "The Block-skim loss improves the answers",
        "Training Block-skim; Results: Score",
        "the second loss agrees with the objective of the answers and improves their accuracy.",
        (
            Check(
                "F1 with the loss less F1 without it, nothing skipped",
                at_least(0.0),
                loss_gains,
                *POINTS,
            ),
        ),
        ("compare",),
        published="F1 on SQuAD 88.32 without and 88.92 with the loss, 76.78 and 77.36 on average "
        f"over six data sets ({_PAPER}, figure of the repository).",
        note="As in the paper (attention within blocks of 32, alpha 0.1, beta 20). Both begin with "
        "one model, which was trained on other questions, and train for as many steps on the same "
        "ones. Over several seeds the mean; the interval is of the questions.",
    ),
    Claim(
        "balance",
        "The two classes must be balanced",
        "Training Block-skim",
        "the loss weighs blocks with and without the answer apart, as most have none.",
        (
            Check(
                "AUC with the balance less that without it",
                at_least(0.0),
                gap_of("diagonal", "unbalanced"),
                "{:+.3f}",
            ),
        ),
        ("skim-settings",),
        note=f"{_BLOCKS_NOTE} The balance moves the probabilities, so at a fixed threshold recall "
        "and accuracy change; the ranking of blocks need not.",
    ),
    Claim(
        "deformer",
        "DeFormer shortens inference by cached contexts",
        "Block-skim Results: Score",
        "DeFormer processes and caches contexts in the early layers, so that less is left to "
        "compute per question.",
        (
            Check(
                "FLOPs of the dense model, packed, against those with cached passages",
                at_least(1.5),
                cached_saves,
                "{:.2f}x",
            ),
        ),
        ("passages",),
        published=f"3.1x ({_PAPER}, as its authors report DeFormer).",
        note="Half of the layers are cached.",
    ),
    Claim(
        "deformer-score",
        "DeFormer keeps the score",
        "Block-skim Results: Score",
        "the table has DeFormer and a Length-Adaptive Transformer beside Block-skim.",
        (Check("F1 lost by DeFormer", at_most(1.0), cached_loses, *POINTS),),
        ("passages", "compare"),
        published=f"F1 87.2 at 3.1x, a Length-Adaptive Transformer 88.7 at 2.22x, Block-Skim 88.52 "
        f"at 3.01x, dense 88.32 ({_PAPER}, as its authors report them).",
        note="Six layers, a slice of the questions: one epoch, or three with the dense model as "
        "the teacher, as long as the dense model itself trained on. In the paper 9 of 12 layers "
        "are apart. No row has a Length-Adaptive Transformer on questions.",
    ),
    Claim(
        "two-to-three",
        "Block-skim takes two to three times fewer FLOPs",
        "Block-skim Results: FLOPs; Score",
        "skimming reduces the FLOPs two to three times, and the loss of accuracy is not "
        "significant.",
        (
            Check(
                "FLOPs saved at the threshold with the fewest FLOPs that loses at most a point",
                at_least(2.0),
                saved,
                "{:.2f}x",
            ),
        ),
        ("squad", "compare"),
        published=f"3.01x on SQuAD at F1 88.52 (dense 88.32), 1.81x to 3.17x on six data sets "
        f"({_PAPER}, figure of the repository).",
        note="Against the dense model packed, without padding. The released script of the paper "
        "counts inputs padded to 512 tokens, where packing alone saves about as much. Chosen on "
        "one half of the questions, read on the other; 1.00x where no threshold loses so little. "
        "Of a comparison, which sets thresholds on questions that are not shown, it is the target "
        "with the fewest FLOPs that loses at most a point of the better of two dense models, the "
        "one that all arms began with and the one trained as long.",
    ),
    Claim(
        "significant",
        "The accuracy drop is not significant",
        "Block-skim Results: FLOPs",
        "the loss of accuracy is not significant.",
        (
            Check(
                "F1 lost at that threshold, on the half that did not choose it",
                at_most(1.0),
                lost_of_all,
                *POINTS,
            ),
        ),
        ("squad", "compare"),
        note="The interval of a run takes the scores as independent, and is too wide; that of "
        "`fewer compare` is paired. There thresholds are chosen on other questions, and the better "
        "of two dense models counts.",
    ),
    Claim(
        "plug-and-play",
        "Block-skim is plug-and-play",
        "Block-skim Results: FLOPs",
        "it works with various Transformers as they are.",
        (
            Check(
                "F1 of Block-Skim less that of the dense model, trained for as long",
                at_least(-1.0),
                architectures,
                *POINTS,
            ),
        ),
        ("skim-architectures",),
        published="BERT-large, ALBERT, DistilBERT and a model with pruned heads save 1.6x to 3.2x "
        f"of their own FLOPs ({_PAPER}, read off its plots).",
        note="The laws of `tests/contract` hold for Block-Skim on every supported architecture; "
        "that is no measurement of what it saves there.",
    ),
    Claim(
        "two-stage",
        "Training in two stages is less effective",
        "Block-skim Results: Ablation",
        "training the predictors after the model (ID-3) is less effective than both at once.",
        (
            Check(
                "F1 of joint training less that of training in stages, at equal FLOPs",
                at_least(0.0),
                stages,
                *POINTS,
            ),
        ),
        ("compare",),
        note="Predictors on hidden states, from before the first layer on. In both a last phase "
        "trains on the remaining tokens; before it the predictors are trained with the model, or "
        "on the model as it is. As many steps for both.",
    ),
    Claim(
        "evidence",
        "Evidence as a label gives a higher score",
        "Block-skim Results: Ablation",
        "with the supporting facts as labels too (ID-12), multi-hop questions score higher.",
        (
            Check(
                "F1 with evidence less F1 without",
                at_least(0.0),
                evidence_score,
                *POINTS,
            ),
        ),
        ("hops", "compare"),
        note="Trained on a slice of HotpotQA; MuSiQue was never trained on. 100 questions each. "
        "And 536 two-hop questions made of SQuAD's, where blocks leave in training too.",
    ),
    Claim(
        "evidence-predictors",
        "With evidence the predictors are worse. Is the answer enough?",
        "Block-skim Results: Ablation",
        "with evidence the accuracy of the predictors is lower on average; thus the answer alone "
        "may be enough as a label.",
        (
            Check(
                "AUC with evidence less AUC without, mean over layers",
                at_most(0.0),
                evidence_areas,
                SIGNED,
            ),
        ),
        ("hops",),
        note="Each predicts its own label: blocks of the answer, or blocks of answer and evidence.",
    ),
)
BLOCK_SKIM = (*_CLAIMS_ON_ATTENTION, *_CLAIMS_ON_TRAINING)
