"""From voxels to pixels and back: pictures reconstructed from responses of a brain (Beliy et al., NeurIPS 2019).

Few pictures s have a measured response r.  An encoder E predicts r from s, a decoder D predicts s from r.  First E
learns from pairs.  Then E is frozen, and D learns from three streams in one batch: pairs, D(r) = s; loose pictures,
D(E(s)) = s; loose responses, E(D(r)) = r, where r is the average of a random part of a stimulus's repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from unlabeled.data import stimuli
from unlabeled.data.fmri import common_voxels, reliability, require_voxels
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Scan, Unit
from unlabeled.data.stimuli import Pair, Picture, Response
from unlabeled.data.store import Record
from unlabeled.errors import OptionError
from unlabeled.losses.pictures import PictureLoss, VGGFeatures
from unlabeled.losses.reconstruction import (
    group_lasso,
    kernel_penalty,
    picture_scores,
    pixel_correlations,
    reliable_error,
    response_error,
    response_scores,
)
from unlabeled.methods import _base
from unlabeled.methods._base import Feed, Method, Monitor, Needs, Phase, Product, Update
from unlabeled.nn.caffenet import MEANS, CaffeNetEncoder, first_layer
from unlabeled.nn.checkpoints import read_weights
from unlabeled.nn.encoders import Encoder
from unlabeled.nn.schedules import Schedule, stepping
from unlabeled.nn.unet import normalise_by
from unlabeled.nn.voxels import PictureDecoder, VoxelReadout, require_growth
from unlabeled.options import Count, NonNegative, Positive, Probability, Whole
from unlabeled.transforms.pictures import SquarePicture, as_square
from unlabeled.transforms.spatial import EdgeShift

ENCODER_EPOCHS, DECODER_EPOCHS = 80, 150  # this and what follows: official code
KEEP = 1 / 3  # probability of each repeat to be in the average of a loose response
PROXIMITY = 0.1  # weight of the cosine proximity in both losses of responses
NEIGHBOURS = 0.5  # how much neighbouring places count in a group of weights
FROZEN_DROPOUT = 0.25  # of the frozen encoder's features
ENCODER_KERNELS, DECODER_KERNELS = (1e-5, 1e-3), (1e-5, 0.0)  # weights of |w| and of w^2


@dataclass(frozen=True, kw_only=True)
class Options(_base.SharedOptions):
    """Defaults of the official code unless another source is named.

    Parameters
    ----------
    patch_size
        Rows and columns that pictures are resized to [pixel]; multiples of 8.
    epochs
        Passes over the pairs: 80 of 230 for the encoder, the others for the decoder.
    batch_size
        Rows of a batch.
    lr
        First learning rate of the encoder (SGD, Nesterov momentum 0.9).
    decoder_lr
        First learning rate of the decoder (Adam with AMSGrad).
    encoder
        Network that predicts responses and is carried to the task.
    unpaired
        Rows without a pair in a batch of the decoder, each a loose picture and a loose response.
    streams
        Which loose samples the decoder learns from.
    test_responses
        Learn from the responses of test rows too, though never from their pictures, as the paper does; what is then
        reconstructed from them is transductive and has to be reported so.  Off: ours.
    max_shift
        Largest shift of the encoder's pictures along each axis [pixel].
    dropout
        Share of the encoder's features that is dropped while it learns.
    encoder_lasso, decoder_lasso
        Weights of single and of grouped weights of the dense layers.
    smoothness
        Weight of the total variation of reconstructions.
    conv1
        Weights file with the first layer of the reference CaffeNet, which then stays frozen; without it, the layer is
        learnt (ours).
    vgg
        Weights file of torchvision's VGG-19 for the loss of pictures; without it, pixels alone are compared (ours).
    voxels
        Voxels of a response; without it, what the responses have.
    fidelity
        Mend the quirks of the official code, or reproduce them.
    """

    patch_size: tuple[Count, ...] = (112, 112)
    epochs: Count = ENCODER_EPOCHS + DECODER_EPOCHS
    batch_size: Count = 64
    lr: Positive = 0.1
    decoder_lr: Positive = 1e-3
    encoder: str = "caffenet"
    unpaired: Count = 16
    streams: Literal["both", "pictures", "responses", "none"] = "both"
    test_responses: bool = False
    max_shift: Whole = 5
    dropout: Probability = 0.5
    encoder_lasso: tuple[NonNegative, NonNegative] = (10.0, 800.0)
    decoder_lasso: tuple[NonNegative, NonNegative] = (20.0, 400.0)
    smoothness: NonNegative = 1.0
    conv1: str | None = None
    vgg: str | None = None
    voxels: Count | None = None
    fidelity: Literal["clean", "official"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_growth(self.patch_size)
        if self.loose and self.unpaired >= self.batch_size:
            raise OptionError(
                f"--unpaired {self.unpaired} leaves no pair in a batch of {self.batch_size}",
                f"Give --unpaired {max(1, self.batch_size // 4)}, or --streams none.",
            )
        if self.conv1 is not None and self.encoder != "caffenet":
            raise OptionError(
                f"--conv1 is CaffeNet's first layer, and {self.encoder} has another one",
                "Give --encoder caffenet, or leave --conv1 out; --init takes weights of any encoder.",
            )

    @property
    def loose(self) -> tuple[str, ...]:
        """Names of the streams without pairs."""
        return {"both": ("pictures", "responses"), "none": ()}.get(self.streams, (self.streams,))


class FMRIReconstruction(Method):
    """An encoder from pictures to voxels, then a decoder back that learns through it from what has no pair."""

    needs: ClassVar[Needs] = Needs(unit=Unit.IMAGE, dims=(2,), some=("responses",))
    options_class: ClassVar[type[_base.SharedOptions]] = Options
    monitor: ClassVar[Monitor] = Monitor("error", "lower", chance="silence")
    makes: ClassVar[str] = "pictures reconstructed from responses"
    in_channels = 3
    holds_out = "scan"
    quirks: ClassVar[Mapping[str, str]] = {
        "channel means": "official: means in the order red, green, blue are subtracted from blue, green, red; clean: "
        "each from its own channel",
        "frozen encoder": "official: normalises by the batch at hand and drops a quarter of its features; clean: "
        "running statistics, no dropout",
        "reliability": "official: noise is averaged over samples, so that a stimulus counts as often as it was shown; "
        "clean: over stimuli",
    }

    options: Options
    reliability: Tensor
    offset: Tensor

    def __init__(self, options: Options, encoder: Encoder) -> None:
        super().__init__(options, encoder)
        if options.voxels is None:
            raise OptionError("how many voxels a response has is not known", "Give --voxels.")
        rows, columns = options.patch_size
        self.readout = VoxelReadout(encoder, (rows, columns), options.voxels)
        self.decoder = PictureDecoder(options.voxels, (rows, columns))
        self.unlike = PictureLoss(options.smoothness, features=options.vgg is not None)
        self.shift = EdgeShift(options.max_shift)
        self.official = options.fidelity == "official"
        self.register_buffer("reliability", torch.ones(options.voxels))
        means = torch.tensor(MEANS).view(3, 1, 1) / 255
        mixed = self.official and isinstance(encoder, CaffeNetEncoder)
        self.register_buffer("offset", (means - means.flip(0)) * mixed, persistent=False)

    @classmethod
    def intensity(cls, options: _base.SharedOptions) -> IntensityRule:
        """Scale pictures from darkest to brightest: for tasks, close to the shares of white that are learnt from here."""
        return IntensityRule(percentiles=(0.0, 100.0))

    @classmethod
    def preparation(cls, options: _base.SharedOptions) -> Callable[[Scan], Scan]:
        """Cut and resize every picture once."""
        rows, columns = options.patch_size
        return SquarePicture((rows, columns))

    @classmethod
    def learns_from(cls, options: Options) -> tuple[str, ...]:
        """Let test rows in where their responses are asked for."""
        return ("train", "test") if options.test_responses else ("train",)

    @classmethod
    def suit(cls, options: Options, records: Sequence[Record]) -> Options:
        """Count the voxels; refuse data that lack a stream, and files that hold other weights."""
        voxels = common_voxels(records)
        if options.voxels not in (None, voxels):
            fact = f"--voxels is {options.voxels}, and the responses have {voxels}"
            raise OptionError(fact, "Leave --voxels out.")
        stimuli.require_streams(records, ("pairs", *options.loose), cls.learns_from(options))
        for path, check in ((options.conv1, first_layer), (options.vgg, VGGFeatures().take)):
            if path is not None:
                check(read_weights(path)[0], path)
        return replace(options, voxels=voxels)

    def views(self, record: Record, rng: Generator) -> Pair:
        """Shift a picture for the encoder, and draw one of the responses to it."""
        picture, response = stimuli.picture_of(record), stimuli.draw_response(record, rng)
        return Pair(self.shift(picture, rng), picture, response)

    def loose_picture(self, records: Sequence[Record], rng: Generator) -> Picture:
        """Draw a picture; what the encoder sees is what the decoder should give back."""
        return Picture(stimuli.picture_of(stimuli.draw_record(records, rng)))

    def loose_response(self, records: Sequence[Record], rng: Generator) -> Response:
        """Draw a stimulus, and average a random part of its repeats."""
        return Response(stimuli.draw_average(stimuli.draw_record(records, rng), KEEP, rng))

    def phases(self) -> tuple[Phase, ...]:
        """First the encoder on pairs, then the decoder on all streams."""
        o, unit = self.options, self.needs.unit
        pairs = Feed(self.views, o.batch_size, unit, stimuli.is_pair)
        fewer = replace(pairs, batch_size=o.batch_size - (o.unpaired if o.loose else 0))
        draws = {"pictures": self.loose_picture, "responses": self.loose_response}
        loose = {
            name: Feed(draws[name], o.unpaired, unit, *stimuli.loose_stream(name))
            for name in o.loose
        }
        return (
            Phase(
                "encoder",
                self.step,
                {"encoder": [self.encoder, self.readout]},
                {"pairs": pairs},
                ENCODER_EPOCHS,
                before=self.take_first_layer,
            ),
            Phase(
                "decoder",
                self.decode,
                {"decoder": [self.decoder]},
                {"pairs": fewer, **loose},
                DECODER_EPOCHS,
                before=self.measure,
                score=self.score_decoder,
                preview=self.preview_decoder,
                monitor=Monitor("identification", "higher", chance="guessing"),
            ),
        )

    def take_first_layer(self, records: Sequence[Record]) -> None:
        """Put CaffeNet's filters, where there is a file, into the first layer."""
        if self.options.conv1 is not None:
            found = first_layer(read_weights(self.options.conv1)[0], self.options.conv1)
            self.encoder.get_submodule(self.encoder.entry).load_state_dict(found)
        self._freeze(False)

    def measure(self, records: Sequence[Record]) -> None:
        """Measure how reliable voxels are, and the usual magnitudes of pixels and features."""
        heard = [stimuli.responses_of(each).numpy() for each in records if each.source.responses]
        self.reliability.copy_(torch.from_numpy(reliability(heard, by_sample=self.official)))
        if self.options.vgg is not None and self.unlike.vgg is not None:
            self.unlike.vgg.take(read_weights(self.options.vgg)[0], self.options.vgg)
        shown = (stimuli.picture_of(each)[None] for each in records if stimuli.is_pair(each))
        self.unlike.measure(picture.to(self.reliability.device) for picture in shown)

    def respond(self, picture: Tensor, dropout: float = 0.0) -> Tensor:
        """Predict responses, ``batch voxels``: the encoder E."""
        response: Tensor = self.readout(self.encoder(picture + self.offset)[-1], dropout)
        return response

    def step(self, batch: Pair) -> Iterator[Update]:
        """Let the encoder predict the response to a shifted picture."""
        self._freeze(False)
        o = self.options
        guess = self.respond(batch.shifted, o.dropout if self.training else 0.0)
        error = response_error(batch.response, guess, PROXIMITY).mean()
        pressed = group_lasso(self.readout.weight, *o.encoder_lasso, NEIGHBOURS)
        if isinstance(self.encoder, CaffeNetEncoder):
            pressed = pressed + kernel_penalty(self.encoder.kernels, *ENCODER_KERNELS)
        yield Update(error + pressed, "encoder", {"error": error, "pressed": pressed})

    def decode(self, batch: Any) -> Iterator[Update]:
        """Let the decoder learn from pairs, and through the frozen encoder from what has no pair."""
        self._freeze(True)
        o, dropout = self.options, FROZEN_DROPOUT if self.official and self.training else 0.0
        streams = _streams(batch)
        pairs: Pair = streams["pairs"]
        truths, heard = [pairs.picture], [pairs.response]
        if "responses" in streams:
            heard.append(streams["responses"].response)
        drawn, *unseen = self.decoder(torch.cat(heard)).split([len(each) for each in heard])
        guesses = [drawn]
        if "pictures" in streams:
            truths.append(streams["pictures"].picture)
            guesses.append(self.decoder(self.respond(truths[1], dropout)))
        picture = self.unlike(torch.cat(truths), torch.cat(guesses)).mean()
        pressed = group_lasso(self.decoder.embed.weight, *o.decoder_lasso, NEIGHBOURS)
        pressed = pressed + kernel_penalty(self.decoder.kernels, *DECODER_KERNELS)
        loss, shows = picture + pressed, {"picture": picture, "pressed": pressed}
        if unseen:  # a mean over all rows: in paired ones, E(s) = r has nothing left to learn
            again = self.respond(unseen[0], dropout)
            errors = reliable_error(heard[1], again, self.reliability, PROXIMITY)
            loss = loss + errors.sum() / sum(map(len, heard))
            shows["voxels"] = errors.mean()
        yield Update(loss, "decoder", shows)

    def optimiser(
        self, name: str, modules: Iterable[nn.Module]
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        """Make SGD with Nesterov momentum for the encoder, Adam with AMSGrad for the decoder."""
        moved = _base.parameters(modules)
        if name == "encoder":
            sgd = torch.optim.SGD(moved, lr=self.options.lr, momentum=0.9, nesterov=True)
            return sgd, stepping((21, 36, 46, 51), of=ENCODER_EPOCHS)
        adam = torch.optim.Adam(moved, lr=self.options.decoder_lr, amsgrad=True)
        return adam, stepping((29, 59, 89, 119, 149), 0.2, of=DECODER_EPOCHS)

    def score(self, batch: Pair) -> dict[str, Tensor]:
        """Measure the error of predicted responses beside that of silence, and their correlation over voxels."""
        return response_scores(batch.response, self.respond(batch.picture))

    def score_decoder(self, batch: Any) -> dict[str, Tensor]:
        """Choose between two pictures by their likeness to a reconstruction; also the correlation of pixels."""
        pairs = _streams(batch)["pairs"]
        return picture_scores(pairs.picture, self.decoder(pairs.response))

    def preview(self, batch: Pair) -> dict[str, Tensor]:
        """Show pictures, and measured and predicted responses, a pixel a voxel."""
        predicted = self.respond(batch.picture)
        squares = {"response": as_square(batch.response), "predicted": as_square(predicted)}
        return {"picture": batch.picture, **squares}

    def preview_decoder(self, batch: Any) -> dict[str, Tensor]:
        """Show what was seen, and what is reconstructed from the response and from the predicted one."""
        pairs = _streams(batch)["pairs"]
        return {
            "seen": pairs.picture,
            "from the response": self.decoder(pairs.response),
            "from the predicted one": self.decoder(self.respond(pairs.picture)),
        }

    def product(self, record: Record) -> Product:
        """Reconstruct a picture from the average of all responses to it."""
        require_voxels(record, len(self.reliability))
        responses = stimuli.responses_of(record).to(self.reliability.device)
        drawn = self.decoder(responses.mean(0, keepdim=True))
        values: dict[str, float | str] = {"repeats": float(len(responses))}
        if not record.source.is_response:
            shown = stimuli.picture_of(record)[None].to(drawn.device)
            values["correlation"] = float(pixel_correlations(drawn, shown))
        return Product(pictures={"reconstruction": drawn[0]}, values=values)

    def notes(self) -> tuple[str, ...]:
        """Say what stands in for weights that were not given, and what the results may not be called."""
        learnt = self.options.conv1 is None and isinstance(self.encoder, CaffeNetEncoder)
        told = {
            "no --conv1: the first layer is learnt; the paper's is CaffeNet's, frozen": learnt,
            "no --vgg: pictures are compared by pixels alone; the paper adds features of VGG-19": (
                self.options.vgg is None
            ),
            "--test-responses: reconstructions of test rows are transductive": self.options.test_responses,
        }
        return tuple(text for text, so in told.items() if so)

    def _freeze(self, frozen: bool) -> None:
        """Freeze the encoder while the decoder learns; else let it learn, but for CaffeNet's own filters."""
        for module in (self.encoder, self.readout):
            module.requires_grad_(not frozen)
            module.train(self.training and not frozen)
        if isinstance(self.encoder, CaffeNetEncoder) and self.options.conv1 is not None:
            self.encoder.conv1.requires_grad_(False)
        normalise_by(self.encoder, "batch" if frozen and self.official else "running")


def _streams(batch: Any) -> Mapping[str, Any]:
    """Name the streams of a batch; one that comes alone is of pairs."""
    return batch if isinstance(batch, Mapping) else {"pairs": batch}
