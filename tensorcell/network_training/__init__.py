"""``tensorcell train --kind microdiffuse3d``: volumes in, the networks of MicroDiffuse3D as a folder out.

The networks that it is compared with (``--kind care`` and so on) are fitted by the same code to the same examples.

=========  ==============================================================================================
stage      what it fits
=========  ==============================================================================================
vae        the autoencoder of slices; writes a folder that diffusers reads
pretrain   the network, to what the stated acquisition makes of the volumes
finetune   networks that were fitted before, to pairs of scans or to the stated acquisition
decoder    the refinement decoder of networks that were fitted before
distil     a network that needs one step, to the samples of one that was fitted before
all        vae (unless one is given), the first estimate, pretrain and decoder, one after the other
=========  ==============================================================================================

Whatever is fitted is chosen at examples that are held out, and restored held-out examples calibrate the errors. The
folder is written whole or not at all. A fit that is interrupted leaves its state beside the folder and can go on from
there. Torch is imported when a command runs, not when this module is loaded.

- ``request``: the options, and what can be refused before a file is read
- ``volumes``: what is trained with
- ``point_spreads``: the PSF as a volume, measured or computed
- ``stages``: the fits, one after the other
- ``losses``: the table of losses
- ``command``: all of it
"""

from tensorcell.network_training.command import how_to_go_on, summary, train
from tensorcell.network_training.request import ModelRequest, sources_of

__all__ = ["ModelRequest", "how_to_go_on", "sources_of", "summary", "train"]
