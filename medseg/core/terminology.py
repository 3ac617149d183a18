"""What structures are called in SNOMED CT, for formats that other programs read by code and not by name.

Codes and meanings are those of DICOM (PS3.16), as pydicom's dictionary lists them. Where it has no code for a structure of
its own, the next wider one stands: a single rib is a rib, a single muscle a skeletal muscle; its name says which.
"""

import re
from dataclasses import dataclass
from typing import Literal

from medseg.core.labels import Structure

PRIVATE_SCHEME = "99MEDSEG"
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Code:
    """A coded concept: ``value`` in ``scheme`` (SCT is SNOMED CT) and what it means in English."""

    value: str
    meaning: str
    scheme: str = "SCT"


ANATOMICAL = Code("91723000", "Anatomical Structure")
TISSUE = Code("85756007", "Tissue")
ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
SIDES: dict[Side, Code] = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}


@dataclass(frozen=True)
class Concept:
    """What a structure is: its ``category`` and ``type``, the ``side`` of the body, the ``site`` of something abnormal."""

    category: Code
    type: Code
    side: Side | None = None
    site: Code | None = None

    @property
    def is_private(self) -> bool:
        return self.type.scheme == PRIVATE_SCHEME


# Names in lower case, words parted by one space, without left and right.
CODES: dict[str, tuple[str, str]] = {
    "spleen": ("78961009", "Spleen"),
    "kidney": ("64033007", "Kidney"),
    "gallbladder": ("28231008", "Gallbladder"),
    "liver": ("10200004", "Liver"),
    "stomach": ("69695003", "Stomach"),
    "pancreas": ("15776009", "Pancreas"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "lung": ("39607008", "Lung"),
    "lung upper lobe": ("45653009", "Upper lobe of lung"),
    "lung lower lobe": ("90572001", "Lower lobe of lung"),
    "lung middle lobe right": ("72481006", "Middle lobe of right lung"),
    "esophagus": ("32849002", "Esophagus"),
    "trachea": ("44567001", "Trachea"),
    "thyroid gland": ("69748006", "Thyroid"),
    "small bowel": ("30315005", "Small intestine"),
    "duodenum": ("38848004", "Duodenum"),
    "colon": ("71854001", "Colon"),
    "urinary bladder": ("89837001", "Bladder"),
    "prostate": ("41216001", "Prostate"),
    "rectum": ("34402009", "Rectum"),
    "uterus": ("35039007", "Uterus"),
    "parotid gland": ("45289007", "Parotid gland"),
    "submandibular gland": ("54019009", "Submandibular gland"),
    "peripheral zone": ("279706003", "Peripheral zone of the prostate"),
    "transition zone": ("399384005", "Transition zone of the prostate"),
    "brain": ("12738006", "Brain"),
    "hippocampus": ("5366008", "Hippocampus"),
    "spinal cord": ("2748008", "Spinal cord"),
    "skull": ("89546000", "Skull"),
    "mandible": ("91609006", "Mandible"),
    "eye": ("81745001", "Eye"),
    "optic nerve": ("18234004", "optic nerve"),
    "heart": ("80891009", "Heart"),
    "heart atrium left": ("82471001", "Left atrium"),
    "heart atrium right": ("73829009", "Right atrium"),
    "heart ventricle left": ("87878005", "Left ventricle"),
    "heart ventricle right": ("53085002", "Right ventricle"),
    "atrial appendage left": ("33626005", "Left auricular appendage"),
    "atrial appendage right": ("68300000", "Right auricular appendage"),
    "aorta": ("15825003", "Aorta"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "pulmonary vein": ("122972007", "Pulmonary vein"),
    "brachiocephalic trunk": ("12691009", "brachiocephalic trunk"),
    "subclavian artery": ("36765005", "Subclavian artery"),
    "common carotid artery": ("32062004", "Common carotid artery"),
    "brachiocephalic vein": ("8887007", "Brachiocephalic vein"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "portal vein": ("32764006", "Portal vein"),
    "splenic vein": ("35819009", "Splenic vein"),
    "hepatic vein": ("8993003", "Hepatic vein"),
    "iliac artery": ("10293006", "Iliac artery"),
    "vein": ("29092000", "Vein"),
    "iliac vein": ("244411005", "Iliac vein"),
    "blood vessel": ("59820001", "Blood Vessel"),
    "humerus": ("85050009", "Humerus"),
    "scapula": ("79601000", "Scapula"),
    "clavicle": ("51299004", "Clavicle"),
    "femur": ("71341001", "Femur"),
    "hip bone": ("118645006", "Pelvis"),
    "sternum": ("56873002", "Sternum"),
    "rib": ("113197003", "Rib"),
    "costal cartilage": ("50016007", "Costal Cartilage"),
    "sacrum": ("54735007", "Sacrum"),
    "bone": ("272673000", "Bone"),
    "vertebra": ("51282000", "Vertebra"),
    "lymph node": ("59441001", "Lymph Node"),
    "skin": ("39937001", "Skin"),
    "breast": ("76752008", "Breast"),
    "trunk": ("22943007", "Trunk"),
    "extremity": ("66019005", "Extremity"),
    "skeletal muscle": ("127954009", "Skeletal muscle"),
    "fat": ("55603005", "Fat"),
    "tumour": ("108369006", "Neoplasm"),
    "lesion": ("52988006", "Lesion"),
    "cyst": ("367643001", "Cyst"),
    "edema": ("79654002", "Edema"),
    "necrosis": ("6574001", "Necrosis"),
    "vertebra c1": ("14806007", "C1 vertebra"),
    "vertebra c2": ("39976000", "C2 vertebra"),
    "vertebra c3": ("113205007", "C3 vertebra"),
    "vertebra c4": ("5329002", "C4 vertebra"),
    "vertebra c5": ("36978003", "C5 vertebra"),
    "vertebra c6": ("36054005", "C6 vertebra"),
    "vertebra c7": ("87391001", "C7 vertebra"),
    "vertebra t1": ("64864005", "T1 vertebra"),
    "vertebra t2": ("53733008", "T2 vertebra"),
    "vertebra t3": ("1626008", "T3 vertebra"),
    "vertebra t4": ("73071006", "T4 vertebra"),
    "vertebra t5": ("56401006", "T5 vertebra"),
    "vertebra t6": ("45296009", "T6 vertebra"),
    "vertebra t7": ("62487009", "T7 vertebra"),
    "vertebra t8": ("11068009", "T8 vertebra"),
    "vertebra t9": ("82687006", "T9 vertebra"),
    "vertebra t10": ("7610001", "T10 vertebra"),
    "vertebra t11": ("12989004", "T11 vertebra"),
    "vertebra t12": ("23215003", "T12 vertebra"),
    "vertebra l1": ("66794005", "L1 vertebra"),
    "vertebra l2": ("14293000", "L2 vertebra"),
    "vertebra l3": ("36470004", "L3 vertebra"),
    "vertebra l4": ("11994002", "L4 vertebra"),
    "vertebra l5": ("49668003", "L5 vertebra"),
}  # fmt: skip
_ABNORMAL = {"tumour", "lesion", "cyst", "edema", "necrosis"}
_TISSUES = {"fat", "skeletal muscle"}
_SIDED = {key for key in CODES if key.endswith((" left", " right"))}
# Words and spellings of data sets that people train on (TotalSegmentator, the Decathlon and others).
_ALIASES = {
    **{"oesophagus": "esophagus", "thyroid": "thyroid gland", "bladder": "urinary bladder", "adrenal": "adrenal gland"},
    **{"small intestine": "small bowel", "clavicula": "clavicle", "iliac vena": "iliac vein", "hip": "hip bone"},
    **{"costal cartilages": "costal cartilage", "vertebrae": "vertebra", "vertebrae s1": "vertebra", "ribs": "rib"},
    **{"portal vein and splenic vein": "vein", "vessel": "blood vessel", "atrium left": "heart atrium left"},
    **{"body trunc": "trunk", "body extremities": "extremity", "subcutaneous fat": "fat", "torso fat": "fat"},
    **dict.fromkeys(("autochthon", "iliopsoas"), "skeletal muscle"),
    **{f"gluteus {which}": "skeletal muscle" for which in ("maximus", "medius", "minimus")},
    **{f"rib {number}": "rib" for number in range(1, 13)},
    **{f"vertebrae {level}{n}": f"vertebra {level}{n}" for level in "ctl" for n in range(1, 13)},
    **{"kidneys": "kidney", "lungs": "lung", "pz": "peripheral zone", "tz": "transition zone"},
    **dict.fromkeys(("tumor", "tumors", "tumours", "cancer", "neoplasm", "cancer primaries"), "tumour"),
    **{"oedema": "edema", "lesions": "lesion", "cysts": "cyst"},
}


def is_snomed_code(text: str) -> bool:
    """True for the identifier of a SNOMED CT concept: 6 to 18 digits, of which the last one checks the others (Verhoeff).

    >>> is_snomed_code("10200004"), is_snomed_code("10200040")
    (True, False)
    """
    if not re.fullmatch(r"[1-9][0-9]{5,17}", text) or text[-3:-1] not in ("00", "10"):  # those of concepts
        return False
    check = 0
    for place, digit in enumerate(reversed(text)):
        turned = int(digit)
        for _ in range(place % 8):
            turned = _VERHOEFF[turned]
        check = _joined(check, turned)
    return check == 0


_VERHOEFF = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _joined(a: int, b: int) -> int:
    """The product of two symmetries of a pentagon: 0 to 4 turn it, 5 to 9 reflect it."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def concept_of(structure: Structure) -> Concept:
    """The concept of ``structure``: by its own SNOMED CT code where it has one, else by its name, else a private one.

    >>> from medseg.core.labels import Labels
    >>> kidney, gizmo = Labels.from_mapping({"background": 0, "kidney_left": 1, "the gizmo": 2}).structures
    >>> concept_of(kidney).type, concept_of(kidney).side
    (Code(value='64033007', meaning='Kidney', scheme='SCT'), 'left')
    >>> concept_of(gizmo).type
    Code(value='the_gizmo', meaning='the gizmo', scheme='99MEDSEG')
    """
    named = _by_name(structure.name)
    if structure.snomed is None:
        private = Code(_slug(structure), structure.name[:64], PRIVATE_SCHEME)
        return named or Concept(ANATOMICAL, private, _parted(structure.name)[1])
    if named and named.type.value == structure.snomed:
        return named
    key = next((key for key, (value, _) in CODES.items() if value == structure.snomed), None)
    side = None if key in _SIDED else _parted(structure.name)[1]
    return Concept(_category(key), Code(structure.snomed, CODES[key][1] if key else structure.name[:64]), side)


def _by_name(name: str) -> Concept | None:
    words, side = _parted(name)
    sided = _known(f"{words} {side}")
    if sided in _SIDED:  # the code itself says which side
        return Concept(_category(sided), Code(*CODES[sided]))
    key = _known(words)
    if key is not None:
        return Concept(_category(key), Code(*CODES[key]), side)
    site, _, last = words.rpartition(" ")
    key, where = _known(last), _known(site)
    if key in _ABNORMAL:  # such as a liver tumour: the abnormal thing, and where it lies if that is known
        return Concept(ABNORMAL, Code(*CODES[key]), side, Code(*CODES[where]) if where else None)
    return None


def _known(words: str) -> str | None:
    key = _ALIASES.get(words, words)
    return key if key in CODES else None


def _category(key: str | None) -> Code:
    return ABNORMAL if key in _ABNORMAL else TISSUE if key in _TISSUES else ANATOMICAL


def _parted(name: str) -> tuple[str, Side | None]:
    """The words of ``name`` without left and right, and the one of these that it says."""
    words = re.findall(r"[a-z0-9]+", name.casefold())
    left, right = bool({"left", "l"} & {*words}), bool({"right", "r"} & {*words})
    rest = " ".join(word for word in words if word not in {"left", "right", "l", "r"})
    return rest, None if left == right else "left" if left else "right"


def _slug(structure: Structure) -> str:
    """At most 16 characters, the limit of a Code Value."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", structure.name).strip("_")
    return words if words and len(words) <= 16 else f"{words[:10]}_{structure.value}"
