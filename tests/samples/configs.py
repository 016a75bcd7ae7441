"""Label configs of every kind, by what is particular about each, and those of the recordings and pages."""

from __future__ import annotations

from tests import samples

TEXT = '<Text name="text" value="$text"/>'
IMAGE = '<Image name="image" value="$image"/>'

CONFIGS = {
    "choices": f"{TEXT}<Choices name='a' toName='text' choice='multiple'><Choice value='x'/></Choices>",
    "choices in views": f"{TEXT}<Choices name='a' toName='text'><View><Choice value='x'/></View></Choices>",
    "alias": f"{TEXT}<Choices name='a' toName='text'><Choice value='Long' alias='v'/><Choice alias='w'/></Choices>",
    "label without a name": f"{TEXT}<Choices name='a' toName='text'><Choice/><Choice value=''/></Choices>",
    "same label twice": f"{TEXT}<Labels name='a' toName='text'><Label value='x'/><Label value='x'/></Labels>",
    "nested choices": f"{TEXT}<Choices name='a' toName='text'><Choice value='x'><Choice value='y'/></Choice></Choices>",
    "choices in choices": (
        f"{TEXT}<Choices name='a' toName='text'><Choice value='x'/>"
        "<Choices name='b' toName='text'><Choice value='y'/></Choices><Choice value='z'/></Choices>"
    ),
    "taxonomy": (
        f"{TEXT}<Taxonomy name='a' toName='text' leafsOnly='true'><Choice value='Animal'><Choice value='Bird'>"
        "<Choice value='Heron'/><Choice value='Other'/></Choice></Choice><Choice value='Other'/></Taxonomy>"
    ),
    "taxonomy from a service": f"{TEXT}<Taxonomy name='a' toName='text' apiUrl='https://example.com/t.json'/>",
    "choices from the task": f"{TEXT}<Choices name='a' toName='text' value='$options'/>",
    "labels from the task": f"{TEXT}<Labels name='a' toName='text' value='$options'><Label value='fixed'/></Labels>",
    "spans": f"{TEXT}<Labels name='a' toName='text'><Label value='PER' background='red'/><Label value='ORG'/></Labels>",
    "boxes": f"{IMAGE}<RectangleLabels name='a' toName='image'><Label value='Car'/></RectangleLabels>",
    "boxes and labels apart": (
        f"{IMAGE}<Rectangle name='r' toName='image'/><Labels name='l' toName='image'><Label value='Car'/></Labels>"
    ),
    "brush": f"{IMAGE}<BrushLabels name='a' toName='image'><Label value='Car'/></BrushLabels>",
    "polygons": f"{IMAGE}<PolygonLabels name='a' toName='image'><Label value='Car'/></PolygonLabels>",
    "key points": f"{IMAGE}<KeyPointLabels name='a' toName='image'><Label value='Nose'/></KeyPointLabels>",
    "ellipses": f"{IMAGE}<EllipseLabels name='a' toName='image'><Label value='Cell'/></EllipseLabels>",
    "bitmasks": f"{IMAGE}<BitmaskLabels name='a' toName='image'><Label value='Cell'/></BitmaskLabels>",
    "series": (
        "<TimeSeries name='t' value='$csv' valueType='url'><Channel column='x'/></TimeSeries>"
        "<TimeSeriesLabels name='a' toName='t'><Label value='Run'/></TimeSeriesLabels>"
    ),
    "dialogue": (
        "<Paragraphs name='p' value='$dialogue' layout='dialogue'/>"
        "<ParagraphLabels name='a' toName='p'><Label value='Slot'/></ParagraphLabels>"
    ),
    "html": (
        "<HyperText name='h' value='$html'/>"
        "<HyperTextLabels name='a' toName='h'><Label value='Title'/></HyperTextLabels>"
    ),
    "audio": "<Audio name='s' value='$audio'/><Labels name='a' toName='s'><Label value='Speech'/></Labels>",
    "video": (
        "<Video name='v' value='$video'/><VideoRectangle name='b' toName='v'/>"
        "<Labels name='l' toName='v'><Label value='Man'/></Labels>"
        "<TimelineLabels name='t' toName='v'><Label value='Wave'/></TimelineLabels>"
    ),
    "rating": f"{TEXT}<Rating name='a' toName='text' maxRating='10'/>",
    "number": f"{TEXT}<Number name='a' toName='text' min='0' max='5'/>",
    "date": f"{TEXT}<DateTime name='a' toName='text' only='date'/>",
    "text area": f"{TEXT}<TextArea name='a' toName='text'><Shortcut alias='-' value='dash'/></TextArea>",
    "pair": "<Text name='l' value='$left'/><Text name='r' value='$right'/><Pairwise name='a' toName='l,r'/>",
    "ranker": (
        "<List name='results' value='$items'/>"
        "<Ranker name='a' toName='results'><Bucket name='best' title='Best'/><Bucket name='worst'/></Ranker>"
    ),
    "relations": (
        f"{TEXT}<Labels name='a' toName='text'><Label value='x'/></Labels>"
        "<Relations><Relation value='founded'/><Relation value='owns'/></Relations>"
    ),
    "per region": (
        f"{IMAGE}<RectangleLabels name='a' toName='image'><Label value='Car'/></RectangleLabels>"
        "<Choices name='b' toName='image' perRegion='true' whenTagName='a'><Choice value='red'/></Choices>"
    ),
    "pages": (
        "<Repeater on='$pages' indexFlag='{{i}}'><Image name='page_{{i}}' value='$pages[{{i}}].url'/>"
        "<RectangleLabels name='box_{{i}}' toName='page_{{i}}'><Label value='Table'/></RectangleLabels></Repeater>"
    ),
    "list of images": (
        "<Image name='image' valueList='$images'/>"
        "<RectangleLabels name='a' toName='image'><Label value='x'/></RectangleLabels>"
    ),
    "filter": (f"<Filter name='f' toName='a'/>{TEXT}<Labels name='a' toName='text'><Label value='x'/></Labels>"),
    "control before its object": f"<Choices name='a' toName='text'><Choice value='x'/></Choices>{TEXT}",
    "headers": f"<Style>.x {{ color: red }}</Style><Header value='$t'/>{TEXT}<Rating name='a' toName='text'/>",
    "scripts": f"{TEXT}<Choices name='тема' toName='text'><Choice value='да &amp; нет'/><Choice value='ü'/></Choices>",
    "nothing to annotate": TEXT,
    "nothing": "",
}

RECORDED = {body["project"]["label_config"] for request in samples.webhooks() if (body := request.body) is not None} | {
    body["project"]["label_config"] for name, body in samples.pages().items() if name.endswith("updated")
}
