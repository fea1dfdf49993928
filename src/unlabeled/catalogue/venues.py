"""Where papers of the catalogue may have appeared: short name, whole name, and what kind of place it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREPRINT = "arXiv"


@dataclass(frozen=True)
class Venue:
    """A journal, proceedings, or the archive of preprints; `short` where the catalogue's name for it is long."""

    name: str
    kind: Literal["journal", "proceedings", "preprint"]
    short: str = ""


#: by the short name that the catalogue uses; a further venue is one more line
VENUES: dict[str, Venue] = {
    "AAAI": Venue("AAAI Conference on Artificial Intelligence", "proceedings"),
    "CVPR": Venue("IEEE/CVF Conference on Computer Vision and Pattern Recognition", "proceedings"),
    "DLMIA": Venue("Deep Learning in Medical Image Analysis (MICCAI workshop)", "proceedings"),
    "ECCV": Venue("European Conference on Computer Vision", "proceedings"),
    "ICCV": Venue("IEEE/CVF International Conference on Computer Vision", "proceedings"),
    "ICLR": Venue("International Conference on Learning Representations", "proceedings"),
    "ICML": Venue("International Conference on Machine Learning", "proceedings"),
    "IEEE-JBHI": Venue("IEEE Journal of Biomedical and Health Informatics", "journal"),
    "IEEE-TBME": Venue("IEEE Transactions on Biomedical Engineering", "journal"),
    "IEEE-TMI": Venue("IEEE Transactions on Medical Imaging", "journal"),
    "IEEE-TPAMI": Venue(
        "IEEE Transactions on Pattern Analysis and Machine Intelligence", "journal"
    ),
    "IJCARS": Venue("International Journal of Computer Assisted Radiology and Surgery", "journal"),
    "IPMI": Venue("Information Processing in Medical Imaging", "proceedings"),
    "ISBI": Venue("IEEE International Symposium on Biomedical Imaging", "proceedings"),
    "MICCAI": Venue(
        "Medical Image Computing and Computer Assisted Intervention (MICCAI)", "proceedings"
    ),
    "MIDL": Venue("Medical Imaging with Deep Learning", "proceedings"),
    "MedIA": Venue("Medical Image Analysis", "journal"),
    "Nature Machine Intelligence": Venue(
        "Nature Machine Intelligence", "journal", short="Nat. Mach. Intell."
    ),
    "NeurIPS": Venue("Advances in Neural Information Processing Systems", "proceedings"),
    PREPRINT: Venue("arXiv", "preprint"),
}
