"""The plugin for napari: files, simulated cells, and a dock widget that diagnoses and recovers a layer.

=============  ====================================================================================
`napari.yaml`  what napari is told: which functions of these modules it calls, and for which files
`layers`       volumes as layers and back: scale, units, names of axes, channels, masks
`files`        readers and writers of all formats of `tensorcell.files.table`
`samples`      simulated cells
`jobs`         a diagnosis or a recovery in a process of its own, which can be ended at any time
`crop`         the box around what was drawn in a shapes layer
`options`      texts of the panel as options of the methods
`form`         the fields of the dock widget
`results`      what was found as layers, placed upon the layer that it is of
`widget`       the dock widget; with `form` and `results` all that imports napari or Qt
=============  ====================================================================================

napari finds the plugin by an entry point. Nothing here is imported by ``import tensorcell``.
"""
