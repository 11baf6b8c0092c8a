"""A stand-in for packs that load their own models: five real ways to choose a device and to keep a model."""

from . import captioner, frames, processes, segmenter, speech, upscaler

NODE_CLASS_MAPPINGS = {
    "SelfCaption": captioner.Caption,
    "SelfFrames": frames.Frames,
    "SelfSegmenterLoader": segmenter.Loader,
    "SelfSegment": segmenter.Segment,
    "SelfSpeech": speech.Speak,
    "SelfWorker": processes.Run,
    "SelfUpscale": upscaler.Upscale,
    "SelfShow": processes.Show,
}
NODE_DISPLAY_NAME_MAPPINGS = {"SelfCaption": "Caption an image"}
